/* What the library does to its process: nothing. And what clients that go away do to it: nothing either, with SIGPIPE as it is by default. */
#include "check.h"

#include <locale.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define LIMITS 16

typedef struct {
    struct sigaction actions[NSIG];
    sigset_t mask;
    struct rlimit limits[LIMITS];
    char locale[256], directory[256];
    mode_t umask;
    int priority;
} state_t;

static void look(state_t *state) {
    memset(state, 0, sizeof *state);
    for (int s = 1; s < NSIG; s++) sigaction(s, NULL, &state->actions[s]);
    sigprocmask(SIG_BLOCK, NULL, &state->mask);
    for (int l = 0; l < LIMITS; l++) getrlimit((__rlimit_resource_t)l, &state->limits[l]);
    snprintf(state->locale, sizeof state->locale, "%s", setlocale(LC_ALL, NULL));
    CHECK(getcwd(state->directory, sizeof state->directory) != NULL);
    state->umask = umask(022);
    umask(state->umask);
    state->priority = getpriority(PRIO_PROCESS, 0);
}

/* That nothing has changed, by its name. */
static void same(const state_t *a, const state_t *b) {
    for (int s = 1; s < NSIG; s++) {
        /* Past the signals that there are the C library leaves whatever it had. */
        CHECK(a->actions[s].sa_handler == b->actions[s].sa_handler && a->actions[s].sa_flags == b->actions[s].sa_flags);
        for (int m = 1; m < NSIG; m++) CHECK(sigismember(&a->actions[s].sa_mask, m) == sigismember(&b->actions[s].sa_mask, m));
    }
    for (int m = 1; m < NSIG; m++) CHECK(sigismember(&a->mask, m) == sigismember(&b->mask, m));
    CHECK(memcmp(&a->limits, &b->limits, sizeof a->limits) == 0);
    CHECK(strcmp(a->locale, b->locale) == 0 && strcmp(a->directory, b->directory) == 0);
    CHECK(a->umask == b->umask && a->priority == b->priority);
}

/* Closes with a reset, so that the next write to it fails. */
static void reset(client_t *client) {
    struct linger now = {1, 0};
    CHECK(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    client_close(client);
}

static void resets(klatch_engine_t *engine, int count) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(klatch_engine_port(engine, 0));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < count; i++) {
        /* During an HTTP answer. */
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
        const char *request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        CHECK(send(fd, request, strlen(request), MSG_NOSIGNAL) > 0);
        struct linger now = {1, 0};
        CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
        close(fd);
        /* During a fan-out. */
        client_t *client = client_connect(engine, "room=lobby&user=ann");
        OK(klatch_engine_publish_then(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("\"0123456789\""), NULL, NULL, NULL));
        reset(client);
        OK(klatch_engine_publish_then(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("\"0123456789\""), NULL, NULL, NULL));
    }
}

int main(int argc, char **argv) {
    state_t before, during, after;
    CHECK(setlocale(LC_ALL, "C.UTF-8") != NULL);
    look(&before);
    CHECK(before.actions[SIGPIPE].sa_handler == SIG_DFL);
    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("host")));
    OK(klatch_builder_listen(builder, S("127.0.0.1:0")));
    klatch_engine_t *engine;
    OK(klatch_builder_start(builder, &engine));
    look(&during);
    same(&before, &during);
    resets(engine, argc > 1 ? atoi(argv[1]) : 1000);
    client_t *client = client_connect(engine, "room=lobby&user=bob");
    client_expect(client, "\"joined\"");
    publish(engine, "lobby", "\"alive\"");
    client_expect(client, "alive");
    client_close(client);
    OK(klatch_engine_stop(engine, PATIENCE_MS, NULL));
    klatch_engine_free(engine);
    look(&after);
    same(&before, &after);
    puts("ok");
    return 0;
}
