/* Threads that use an engine, a subscription and each other's handles while the main thread frees them: each is told, and none is hurt. */
#include "check.h"

#define WAITERS 4
#define THREADS 8

static klatch_engine_t *engine;
static klatch_subscription_t *subscription;
static atomic_uint events, published, answered, turns;
static latch_t callback_freed = LATCH;

static void *wait_for_events(void *unused) {
    (void)unused;
    klatch_error_t *error;
    klatch_event_t *event;
    while ((error = klatch_engine_next_event(engine, PATIENCE_MS, &event)) == NULL) {
        CHECK(event != NULL);
        atomic_fetch_add(&events, 1);
        klatch_event_free(event);
    }
    FAILS(error, KLATCH_ERROR_STOPPED);
    /* However often it is tried again. */
    for (int i = 0; i < 100; i++) FAILS(klatch_engine_next_event(engine, 1, &event), KLATCH_ERROR_STOPPED);
    return NULL;
}

static int is_end(klatch_error_t *error) {
    int32_t code = klatch_error_code(error);
    CHECK(code == 0 || code == KLATCH_ERROR_STOPPED || code == KLATCH_ERROR_STOPPING || code == KLATCH_ERROR_BUSY ||
          code == KLATCH_ERROR_ENDED);
    klatch_error_free(error);
    return code == KLATCH_ERROR_STOPPED || code == KLATCH_ERROR_STOPPING || code == KLATCH_ERROR_ENDED;
}

static void on_published(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error) {
    CHECK(user_data == &answered && (ack == NULL) != (error == NULL));
    atomic_fetch_add(&answered, 1);
}

static void *publish_on(void *unused) {
    (void)unused;
    for (;;) {
        atomic_fetch_add(&turns, 1);
        if (is_end(klatch_engine_publish(engine, S("talk"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), PATIENCE_MS, NULL))) return NULL;
        klatch_error_t *error = klatch_engine_publish_then(engine, S("talk"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), on_published,
                                                           &answered, NULL);
        if (error == NULL) atomic_fetch_add(&published, 1);
        if (is_end(error)) return NULL;
    }
}

static void *read_on(void *unused) {
    (void)unused;
    for (;;) {
        klatch_publications_t *batch, *page;
        atomic_fetch_add(&turns, 1);
        int ended = is_end(klatch_subscription_next(subscription, 64, 1000, &batch));
        klatch_publications_free(batch);
        ended |= is_end(klatch_engine_history(engine, S("talk"), 0, 0, 5, true, 0, &page));
        klatch_publications_free(page);
        (void)klatch_subscription_offset(subscription);
        (void)klatch_engine_port(engine, 0);
        (void)klatch_engine_health(engine);
        if (ended) return NULL;
    }
}

static void on_event(void *user_data, const klatch_event_t *event) {
    (void)user_data, (void)event;
}

static void *register_on(void *unused) {
    (void)unused;
    for (;;) {
        atomic_fetch_add(&turns, 1);
        if (is_end(klatch_engine_on_event(engine, on_event, &callback_freed, latch_freed))) return NULL;
    }
}

static void round_of(int ending, const char *log) {
    pthread_t waiters[WAITERS], threads[THREADS];
    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S(log)));
    OK(klatch_builder_listen(builder, S("127.0.0.1:0")));
    OK(klatch_builder_start(builder, &engine));
    OK(klatch_engine_subscribe(engine, S("talk"), 0, &subscription));
    for (int i = 0; i < WAITERS; i++) CHECK(pthread_create(&waiters[i], NULL, wait_for_events, NULL) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *(*run)(void *) = i < 4 ? publish_on : i < 6 || ending == 2 ? read_on : register_on;
        CHECK(pthread_create(&threads[i], NULL, run, NULL) == 0);
    }
    unsigned before = atomic_load(&turns);
    while (atomic_load(&turns) < before + 300) usleep(1000);
    if (ending == 1) OK(klatch_engine_stop(engine, PATIENCE_MS, NULL));
    if (ending == 2) klatch_subscription_free(subscription);
    klatch_engine_free(engine);
    for (int i = 0; i < WAITERS; i++) CHECK(pthread_join(waiters[i], NULL) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    klatch_subscription_free(subscription);
    CHECK(atomic_load(&answered) == atomic_load(&published));
}

int main(void) {
    for (int ending = 0; ending < 3; ending++) {
        round_of(ending, "memory");
        round_of(ending, "threads");
    }
    puts("ok");
    return 0;
}
