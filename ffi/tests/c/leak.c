/* Engines, and all that belongs to them, again and again: nothing is left of them. Valgrind looks for memory; this for threads, descriptors, and
 * what the host keeps for callbacks. */
#include "check.h"

#include <dirent.h>

static latch_t registered = LATCH, freed = LATCH;

static void *keep(void) {
    latch_add(&registered);
    void *kept = malloc(16);
    CHECK(kept != NULL);
    return kept;
}

static void release(void *kept) {
    free(kept);
    latch_add(&freed);
}

static void on_request(void *user_data, klatch_request_t *request) {
    CHECK(user_data != NULL);
    OK(klatch_request_allow(request));
}

static void on_event(void *user_data, const klatch_event_t *event) {
    CHECK(user_data != NULL);
    klatch_event_free(klatch_event_clone(event));
}

static void on_publications(void *user_data, const klatch_publications_t *publications, int32_t ended) {
    CHECK(user_data != NULL && (ended == KLATCH_ENDED_NOT) == (publications != NULL));
    klatch_publications_free(klatch_publications_clone(publications));
}

static void on_published(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error) {
    CHECK(user_data != NULL && (ack == NULL) != (error == NULL));
}

static void on_line(void *user_data, int32_t level, klatch_str_t target, klatch_str_t message) {
    (void)level, (void)target, (void)message;
    CHECK(user_data != NULL);
}

static int handler(void *user_data, const klatch_publication_t *publication) {
    (void)user_data, (void)publication;
    return 0;
}

static void one(int round) {
    klatch_engine_t *engine, *failed;
    klatch_subscription_t *subscriptions[3];
    klatch_consumer_t *consumer;
    klatch_publications_t *batch;
    klatch_event_t *event;
    klatch_error_t *error;
    int32_t fd;

    OK(klatch_log_set(KLATCH_LOG_DEBUG, on_line, keep(), release));
    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_on_connect(builder, on_request, keep(), release));
    OK(klatch_builder_on_connect(builder, on_request, keep(), release));
    OK(klatch_builder_on_join(builder, on_request, keep(), release));
    OK(klatch_builder_on_publish(builder, on_request, keep(), release));
    klatch_builder_free(klatch_builder_new());
    OK(klatch_builder_log(builder, S(round % 2 == 0 ? "memory" : "leak")));
    OK(klatch_builder_listen(builder, S("127.0.0.1:0")));
    OK(klatch_builder_start(builder, &engine));

    builder = klatch_builder_new();
    OK(klatch_builder_on_publish(builder, on_request, keep(), release));
    OK(klatch_builder_log(builder, S("none://")));
    FAILS(klatch_builder_start(builder, &failed), KLATCH_ERROR_INVALID_CONFIG);
    builder = klatch_builder_new();
    OK(klatch_builder_on_publish(builder, on_request, keep(), release));
    klatch_builder_free(builder);

    OK(klatch_engine_on_event(engine, on_event, keep(), release));
    OK(klatch_engine_on_event(engine, on_event, keep(), release));
    for (int i = 0; i < 3; i++) OK(klatch_engine_subscribe(engine, S("lobby"), 5, &subscriptions[i]));
    OK(klatch_subscription_on_publications(subscriptions[0], on_publications, keep(), release));
    OK(klatch_subscription_on_publications(subscriptions[1], on_publications, keep(), release));
    FAILS(klatch_subscription_on_publications(subscriptions[1], on_publications, keep(), release), KLATCH_ERROR_BUSY);
    OK(klatch_subscription_fd(subscriptions[2], &fd));
    OK(klatch_engine_event_fd(engine, &fd));
    FAILS(klatch_engine_consume(engine, NULL, handler, keep(), release, &consumer), KLATCH_ERROR_UNSUPPORTED);

    client_t *client = client_connect(engine, "room=lobby&user=ann");
    client_expect(client, "\"joined\"");
    for (int i = 0; i < 20; i++) {
        OK(klatch_engine_publish_then(engine, S("lobby"), S("ann"), S(""), KLATCH_DATA_JSON, klatch_json("{\"text\":\"hello\"}"), on_published,
                                      keep(), release));
    }
    client_send(client, "{\"type\":\"publish\",\"room\":\"lobby\",\"ref\":1,\"data\":1}");
    client_expect(client, "\"data\":1");
    OK(klatch_subscription_next(subscriptions[2], 7, PATIENCE_MS, &batch));
    klatch_publications_free(batch);
    OK(klatch_engine_history(engine, S("lobby"), 0, 0, 50, false, 0, &batch));
    CHECK(klatch_publications_count(batch) > 20);
    klatch_publications_free(batch);
    OK(klatch_engine_next_event(engine, 0, &event));
    klatch_event_free(event);
    client_close(client);

    /* In every order. */
    if (round % 3 == 0) OK(klatch_engine_stop(engine, PATIENCE_MS, NULL));
    klatch_subscription_free(subscriptions[0]);
    if (round % 3 == 1) klatch_engine_free(engine);
    while ((error = klatch_subscription_next(subscriptions[2], 7, 0, &batch)) == NULL && batch != NULL) klatch_publications_free(batch);
    klatch_error_free(error);
    klatch_subscription_free(subscriptions[2]);
    klatch_engine_free(engine);
    klatch_subscription_free(subscriptions[1]);
    OK(klatch_log_set(KLATCH_LOG_DEBUG, NULL, NULL, NULL));
    CHECK(latch_count(&registered) == latch_count(&freed));
}

static unsigned entries(const char *path) {
    DIR *dir = opendir(path);
    unsigned count = 0;
    CHECK(dir != NULL);
    while (readdir(dir) != NULL) count++;
    closedir(dir);
    return count;
}

/* Threads that nobody waits for end soon. */
static void comes_to(const char *path, unsigned count) {
    for (int i = 0; i < PATIENCE_MS && entries(path) > count; i++) usleep(1000);
    CHECK(entries(path) <= count);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 20;
    unsigned threads = entries("/proc/self/task"), descriptors = 0;
    for (int round = 0; round < rounds; round++) {
        one(round);
        comes_to("/proc/self/task", threads);
        if (round == 0) descriptors = entries("/proc/self/fd");
        comes_to("/proc/self/fd", descriptors);
    }
    puts("ok");
    return 0;
}
