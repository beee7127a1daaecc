/*
 * klatch in a program that has a loop of its own: no thread and no callback of the host's, but descriptors among its others.
 *
 *     cc epoll.c -o epoll $(pkg-config --cflags --libs klatch)
 *     ./epoll 127.0.0.1:8080
 *
 * Whoever joins the room "lobby" is greeted, alone; what is said there is shown. Ctrl-C ends it, as one more thing that the loop waits for.
 */
#include <klatch.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* What this program cannot go on without. */
static void must(klatch_error_t *error, const char *what) {
    if (error == NULL) return;
    fprintf(stderr, "%s: %s: %s\n", what, klatch_error_name(error).ptr, klatch_error_message(error).ptr);
    klatch_error_free(error);
    exit(1);
}

static void watch(int loop, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd}; /* Level-triggered. */
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0) return;
    perror("epoll_ctl");
    exit(1);
}

/* Everything that has happened: the descriptor stays readable until there is no more. False once the engine has stopped. */
static bool read_events(klatch_engine_t *engine) {
    for (;;) {
        klatch_event_t *event;
        klatch_error_t *error = klatch_engine_next_event(engine, 0, &event);
        if (error != NULL) { /* KLATCH_ERROR_STOPPED */
            klatch_error_free(error);
            return false;
        }
        if (event == NULL) return true;
        switch (klatch_event_kind(event)) {
        case KLATCH_EVENT_JOINED:
            printf("%s has joined %s\n", klatch_event_user(event).ptr, klatch_event_room(event).ptr);
            /* It does not wait. If the connection has gone meanwhile, nothing happens. */
            klatch_error_free(klatch_engine_send(engine, klatch_event_connection(event), klatch_str("greeting"),
                                                 klatch_str("\"welcome\"")));
            break;
        case KLATCH_EVENT_LEFT:
            printf("%s has left %s\n", klatch_event_user(event).ptr, klatch_event_room(event).ptr);
            break;
        case KLATCH_EVENT_LOST:
            printf("%llu events were not read in time\n", (unsigned long long)klatch_event_count(event));
            break;
        default: /* Others, and what later versions add. */
            break;
        }
        klatch_event_free(event);
    }
}

/* The same for what is said. */
static bool read_lobby(klatch_subscription_t *lobby) {
    for (;;) {
        klatch_publications_t *batch;
        klatch_error_t *error = klatch_subscription_next(lobby, 100, 0, &batch);
        if (error != NULL) { /* KLATCH_ERROR_ENDED */
            klatch_error_free(error);
            return false;
        }
        if (batch == NULL) return true;
        for (size_t i = 0; i < klatch_publications_count(batch); i++) {
            const klatch_publication_t *p = klatch_publications_at(batch, i);
            printf("%s: %s\n", klatch_publication_user(p).ptr, (const char *)klatch_publication_data(p).ptr);
        }
        klatch_publications_free(batch);
    }
}

int main(int argc, char **argv) {
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine;
    klatch_subscription_t *lobby;
    int32_t event_fd, lobby_fd;
    sigset_t signals;
    bool running = true;

    /* Signals as a descriptor; no thread of the program, or of the library, is interrupted by them. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    int loop = epoll_create1(EPOLL_CLOEXEC);
    if (signal_fd < 0 || loop < 0) return 1;

    must(klatch_builder_log(builder, klatch_str("memory")), "messages");
    must(klatch_builder_listen(builder, klatch_str(argc > 1 ? argv[1] : "127.0.0.1:8080")), "listen");
    must(klatch_builder_set(builder, klatch_str("open_users"), klatch_str("true")), "open_users");
    must(klatch_builder_start(builder, &engine), "start");
    must(klatch_engine_event_fd(engine, &event_fd), "events");
    must(klatch_engine_subscribe(engine, klatch_str("lobby"), 0, &lobby), "lobby");
    must(klatch_subscription_fd(lobby, &lobby_fd), "lobby");
    watch(loop, signal_fd);
    watch(loop, event_fd);
    watch(loop, lobby_fd);
    printf("listening on ws://%s/ws?room=lobby&user=ann\n", klatch_engine_address(engine, 0).ptr);

    while (running) {
        struct epoll_event ready[8];
        fflush(stdout);
        int count = epoll_wait(loop, ready, 8, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == signal_fd) running = false;
            if (ready[i].data.fd == event_fd) running = read_events(engine) && running;
            if (ready[i].data.fd == lobby_fd) running = read_lobby(lobby) && running;
        }
    }

    /* What was queued when the engine stopped can still be read. The descriptors go with their handles. */
    must(klatch_engine_stop(engine, 10000, NULL), "stop");
    read_lobby(lobby);
    read_events(engine);
    klatch_subscription_free(lobby);
    klatch_engine_free(engine);
    close(loop);
    close(signal_fd);
    puts("stopped");
    return 0;
}
