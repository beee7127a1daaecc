/*
 * A small chat server in C: who may come in, a filter of words, history for those who join, and a thread of the host that reads along.
 *
 *     cc chat.c -o chat $(pkg-config --cflags --libs klatch) -lpthread
 *     ./chat 127.0.0.1:8080 chat-data
 *
 * Then connect WebSockets to ws://127.0.0.1:8080/ws?user=ann&token=apple (bob's token is banana) and send
 * {"type":"join","room":"lobby","history":20} and {"type":"publish","room":"lobby","id":"1","data":"hello"}. Ctrl-C ends it.
 */
#include <klatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What this program cannot go on without. */
static void must(klatch_error_t *error, const char *what) {
    if (error == NULL) return;
    fprintf(stderr, "%s: %s: %s\n", what, klatch_error_name(error).ptr, klatch_error_message(error).ptr);
    klatch_error_free(error);
    exit(1);
}

/* What may fail without harm: a request that took too long, for instance, has been answered already. */
static void may(klatch_error_t *error) {
    klatch_error_free(error);
}

/* Texts that come out of klatch have a NUL behind them. */
static int is(klatch_str_t text, const char *expected) {
    return strcmp(text.ptr, expected) == 0;
}

/* Who may connect. Runs on a thread for hooks, of which there are four: it may ask a database, and take its time. */
static void on_connect(void *user_data, klatch_request_t *request) {
    static const char *const users[][2] = {{"ann", "apple"}, {"bob", "banana"}};
    (void)user_data;
    for (size_t i = 0; i < sizeof users / sizeof users[0]; i++) {
        if (is(klatch_request_user(request), users[i][0]) && is(klatch_request_token(request), users[i][1])) {
            may(klatch_request_allow(request));
            return;
        }
    }
    may(klatch_request_deny(request, klatch_str("wrong name or token")));
}

/* What clients may publish: words that nobody should read become stars. What is stored is what everybody gets. */
static void on_publish(void *user_data, klatch_request_t *request) {
    const char *word = user_data;
    klatch_bytes_t data = klatch_request_data(request);
    char *clean, *at;
    if (klatch_request_kind(request) != KLATCH_DATA_JSON || strstr((const char *)data.ptr, word) == NULL) {
        may(klatch_request_allow(request));
        return;
    }
    clean = malloc(data.len + 1);
    if (clean == NULL) return; /* Not answered: the client is told that it failed. */
    memcpy(clean, data.ptr, data.len + 1);
    for (at = clean; (at = strstr(at, word)) != NULL;) memset(at, '*', strlen(word));
    may(klatch_request_replace_json(request, klatch_str(clean)));
    free(clean);
}

/* The host's own thread: what was said before, then what is said, in the order in which everybody gets it. */
static void *read_along(void *subscription) {
    klatch_publications_t *batch;
    klatch_error_t *error;
    while ((error = klatch_subscription_next(subscription, 100, 60000, &batch)) == NULL) {
        for (size_t i = 0; i < klatch_publications_count(batch); i++) {
            const klatch_publication_t *p = klatch_publications_at(batch, i);
            printf("%s: %s\n", klatch_publication_user(p).ptr, (const char *)klatch_publication_data(p).ptr);
        }
        fflush(stdout);
        klatch_publications_free(batch);
    }
    if (klatch_subscription_ended(subscription) != KLATCH_ENDED_STOPPED) {
        fprintf(stderr, "the reader has ended: %s\n", klatch_error_message(error).ptr);
    }
    klatch_error_free(error);
    return NULL;
}

/* What the library has to say for an operator. It never prints by itself. */
static void on_log(void *user_data, int32_t level, klatch_str_t target, klatch_str_t message) {
    (void)user_data;
    (void)target;
    fprintf(stderr, "%s: %s\n", level == KLATCH_LOG_ERROR ? "error" : "warning", message.ptr);
}

int main(int argc, char **argv) {
    static char word[] = "darn";
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine;
    klatch_subscription_t *subscription;
    pthread_t reader;
    sigset_t signals;
    int signal;

    /* All threads that begin from here on leave Ctrl-C to sigwait() below. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);

    must(klatch_log_set(KLATCH_LOG_WARN, on_log, NULL, NULL), "log");
    must(klatch_builder_listen(builder, klatch_str(argc > 1 ? argv[1] : "127.0.0.1:8080")), "listen");
    must(klatch_builder_log(builder, klatch_str(argc > 2 ? argv[2] : "chat-data")), "messages");
    must(klatch_builder_set(builder, klatch_str("open_users"), klatch_str("true")), "open_users");
    must(klatch_builder_on_connect(builder, on_connect, NULL, NULL), "connect hook");
    must(klatch_builder_on_publish(builder, on_publish, word, NULL), "publish hook");
    must(klatch_builder_start(builder, &engine), "start");
    must(klatch_engine_subscribe(engine, klatch_str("lobby"), 20, &subscription), "lobby");
    if (pthread_create(&reader, NULL, read_along, subscription) != 0) return 1;
    printf("listening on ws://%s/ws\n", klatch_engine_address(engine, 0).ptr);
    fflush(stdout);

    sigwait(&signals, &signal);

    /* Stores what is queued and tells the clients to come back; the reader reads to the end. */
    must(klatch_engine_stop(engine, 10000, NULL), "stop");
    pthread_join(reader, NULL);
    klatch_subscription_free(subscription);
    klatch_engine_free(engine);
    must(klatch_log_set(KLATCH_LOG_WARN, NULL, NULL, NULL), "log");
    puts("stopped");
    return 0;
}
