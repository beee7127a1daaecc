/* Everything that a caller can do wrong: an error code each time, and the engine lives on. The calls with nothing but zeros, and those after a
 * handle was freed, are in a program that the test makes of the header. */
#include "check.h"

void klatch_test_panic(uint32_t calls);

static const int32_t BAD = KLATCH_ERROR_BAD_REQUEST, NAME = KLATCH_ERROR_INVALID_NAME;

static klatch_error_t *say(klatch_engine_t *engine, klatch_str_t room, klatch_str_t user, klatch_str_t id, int32_t kind, klatch_bytes_t data) {
    return klatch_engine_publish(engine, room, user, id, kind, data, PATIENCE_MS, NULL);
}

static void texts(klatch_engine_t *engine) {
    const klatch_bytes_t one = klatch_json("1");
    const klatch_str_t none = S(""), room = S("lobby");
    const klatch_str_t nul = klatch_str_n("a\0b", 3), broken = klatch_str_n("a\377", 2), half = klatch_str_n("\355\240\200", 3);
    const klatch_str_t null = klatch_str_n(NULL, 5);
    const klatch_str_t wrong[] = {nul, broken, half, klatch_str_n("x", SIZE_MAX), klatch_str_n("x", SIZE_MAX / 2), klatch_str_n("x", 1u << 20)};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        klatch_publications_t *page;
        klatch_presence_t *presence;
        klatch_subscription_t *subscription;
        FAILS(say(engine, wrong[i], none, none, KLATCH_DATA_JSON, one), NAME);
        FAILS(say(engine, room, wrong[i], none, KLATCH_DATA_JSON, one), NAME);
        FAILS(say(engine, room, none, wrong[i], KLATCH_DATA_JSON, one), i == 0 ? KLATCH_ERROR_INVALID_ID : NAME);
        FAILS(klatch_engine_history(engine, wrong[i], 0, 0, 1, false, 0, &page), NAME);
        FAILS(klatch_engine_subscribe(engine, wrong[i], 0, &subscription), NAME);
        FAILS(klatch_engine_signal(engine, wrong[i], none, S("x"), S("1")), NAME);
        FAILS(klatch_engine_signal(engine, room, none, wrong[i], S("1")), NAME);
        if (i > 0) FAILS(klatch_engine_presence(engine, wrong[i], &presence), NAME);
        if (i > 0) FAILS(klatch_engine_kick_user(engine, wrong[i], room), NAME);
        FAILS(klatch_engine_kick_connection(engine, wrong[i], room), i == 0 ? BAD : NAME);
        FAILS(klatch_engine_send(engine, wrong[i], S("x"), S("1")), i == 0 ? BAD : NAME);
        CHECK(page == NULL && subscription == NULL);
    }
    FAILS(say(engine, null, none, none, KLATCH_DATA_JSON, one), BAD);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_bytes(NULL, 3)), BAD);
    FAILS(say(engine, room, none, none, KLATCH_DATA_BINARY, klatch_bytes(NULL, 3)), BAD);
    FAILS(say(engine, room, none, none, KLATCH_DATA_BINARY, klatch_bytes("x", SIZE_MAX)), KLATCH_ERROR_TOO_LARGE);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_bytes("x", SIZE_MAX / 2)), KLATCH_ERROR_TOO_LARGE);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_bytes("\"\377\"", 3)), KLATCH_ERROR_INVALID_DATA);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_bytes("\"\0\"", 3)), KLATCH_ERROR_INVALID_DATA);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_json("{\"a\":\"\\ud800\"}")), KLATCH_ERROR_INVALID_DATA);
    FAILS(say(engine, room, none, none, KLATCH_DATA_JSON, klatch_json("")), KLATCH_ERROR_INVALID_DATA);
    FAILS(say(engine, room, none, none, 2, one), BAD);
    FAILS(say(engine, room, none, none, INT32_MIN, one), BAD);
    OK(say(engine, room, none, none, KLATCH_DATA_BINARY, klatch_bytes(NULL, 0)));
    OK(klatch_engine_kick_connection(engine, S("c1"), none));
}

/* Each callback tries everything that waits, frees or registers, and the ends are counted. */
static latch_t done = LATCH, freed = LATCH;
static klatch_subscription_t *listening;

static void wait_here(klatch_engine_t *engine, int32_t expected) {
    klatch_event_t *event;
    klatch_publications_t *batch;
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *other = NULL;
    klatch_batch_t *several = klatch_batch_new();
    klatch_outcomes_t *outcomes;
    klatch_error_t *error = say(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"));
    FAILS(error, expected);
    OK(klatch_batch_add(several, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1")));
    error = klatch_engine_publish_batch(engine, several, PATIENCE_MS, &outcomes);
    FAILS(error, expected);
    klatch_outcomes_free(outcomes);
    klatch_batch_free(several);
    OK(klatch_builder_log(builder, S("memory")));
    FAILS(klatch_builder_start(builder, &other), expected);
    klatch_engine_free(other);
    error = klatch_engine_next_event(engine, 1, &event);
    FAILS(error, expected);
    klatch_event_free(event);
    FAILS(klatch_subscription_next(listening, 1, 1, &batch), expected);
    klatch_publications_free(batch);
    FAILS(klatch_log_set(KLATCH_LOG_INFO, NULL, NULL, NULL), expected);
    /* What does not wait works everywhere. */
    OK(klatch_engine_next_event(engine, 0, &event));
    klatch_event_free(event);
    OK(klatch_subscription_next(listening, 1, 0, &batch));
    klatch_publications_free(batch);
    OK(klatch_engine_publish_then(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), NULL, &freed, latch_freed));
    OK(klatch_engine_signal(engine, S("lobby"), S(""), S("x"), S("1")));
}

static void stop_here(klatch_engine_t *engine, int32_t expected) {
    FAILS(klatch_engine_stop(engine, 1000, NULL), expected);
    klatch_engine_free(engine);
    FAILS(klatch_engine_stop(engine, 1000, NULL), KLATCH_ERROR_STOPPED);
    klatch_engine_free(engine);
    latch_add(&done);
}

static void in_published(void *engine, const klatch_ack_t *ack, const klatch_error_t *error) {
    CHECK(ack != NULL && error == NULL);
    wait_here((klatch_engine_t *)engine, KLATCH_ERROR_WOULD_DEADLOCK);
    stop_here((klatch_engine_t *)engine, KLATCH_ERROR_WOULD_DEADLOCK);
}

static void in_event(void *engine, const klatch_event_t *event) {
    if (event == NULL) return;
    wait_here((klatch_engine_t *)engine, 0);
    OK(klatch_engine_on_event((klatch_engine_t *)engine, NULL, NULL, NULL));
    /* It has taken itself away, and runs on. */
    CHECK(klatch_event_kind(event) == KLATCH_EVENT_CONNECTED);
    stop_here((klatch_engine_t *)engine, 0);
}

static klatch_subscription_t *own;

static void in_publications(void *engine, const klatch_publications_t *publications, int32_t ended) {
    CHECK(ended == KLATCH_ENDED_NOT && klatch_publications_count(publications) == 1);
    klatch_publications_t *batch;
    FAILS(klatch_subscription_next(own, 1, 1, &batch), KLATCH_ERROR_BUSY);
    wait_here((klatch_engine_t *)engine, 0);
    klatch_subscription_free(own);
    CHECK(klatch_publications_count(publications) == 1);
    stop_here((klatch_engine_t *)engine, 0);
}

static _Atomic(klatch_engine_t *) hooked;

static void in_hook(void *user_data, klatch_request_t *request) {
    (void)user_data;
    klatch_engine_t *engine;
    while ((engine = atomic_load(&hooked)) == NULL) usleep(1000);
    wait_here(engine, 0);
    OK(klatch_request_allow(request));
    FAILS(klatch_request_allow(request), BAD);
    FAILS(klatch_request_deny(request, S("x")), BAD);
    stop_here(engine, 0);
    CHECK(klatch_request_what(request) == KLATCH_REQUEST_CONNECT);
}

static klatch_engine_t *ready(const char *log) {
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine;
    OK(klatch_builder_log(builder, S(log)));
    OK(klatch_builder_listen(builder, S("127.0.0.1:0")));
    OK(klatch_builder_start(builder, &engine));
    OK(klatch_engine_subscribe(engine, S("elsewhere"), 0, &listening));
    return engine;
}

static void reentrancy(const char *log) {
    unsigned ends = latch_count(&done);
    klatch_publications_t *batch;
    /* A publish tells of itself: on the log's thread, or, in memory, on this one. */
    klatch_engine_t *engine = ready(log);
    OK(klatch_engine_publish_then(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), in_published, engine, NULL));
    latch_wait(&done, ++ends);
    /* Its engine stops in the background. */
    klatch_error_t *error;
    while ((error = klatch_subscription_next(listening, 1, PATIENCE_MS, &batch)) == NULL) klatch_publications_free(batch);
    FAILS(error, KLATCH_ERROR_ENDED);
    CHECK(klatch_subscription_ended(listening) == KLATCH_ENDED_STOPPED);
    klatch_subscription_free(listening);

    engine = ready("memory");
    OK(klatch_engine_on_event(engine, in_event, engine, NULL));
    client_t *client = client_connect(engine, "user=ann");
    latch_wait(&done, ++ends);
    client_close(client);
    klatch_subscription_free(listening);

    engine = ready("memory");
    OK(klatch_engine_subscribe(engine, S("talk"), 0, &own));
    OK(klatch_subscription_on_publications(own, in_publications, engine, NULL));
    publish(engine, "talk", "1");
    latch_wait(&done, ++ends);
    klatch_subscription_free(listening);
}

static void reentrancy_in_hooks(void) {
    unsigned ends = latch_count(&done);
    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_on_connect(builder, in_hook, NULL, NULL));
    klatch_engine_t *engine = engine_in_memory(builder);
    OK(klatch_engine_subscribe(engine, S("elsewhere"), 0, &listening));
    client_t *client = client_connect(engine, "user=ann");
    atomic_store(&hooked, engine);
    latch_wait(&done, ++ends);
    client_close(client);
    klatch_subscription_free(listening);
}

static latch_t line = LATCH;

static void in_line(void *user_data, int32_t level, klatch_str_t target, klatch_str_t message) {
    (void)user_data, (void)level, (void)target, (void)message;
    FAILS(klatch_log_set(KLATCH_LOG_INFO, NULL, NULL, NULL), KLATCH_ERROR_WOULD_DEADLOCK);
    klatch_engine_t *engine = engine_in_memory(NULL);
    publish(engine, "lobby", "1");
    OK(klatch_engine_stop(engine, PATIENCE_MS, NULL));
    klatch_engine_free(engine);
    latch_add(&line);
}

static void logging(void) {
    FAILS(klatch_log_set(0, in_line, &freed, latch_freed), BAD);
    FAILS(klatch_log_set(99, NULL, NULL, NULL), BAD);
    OK(klatch_log_set(KLATCH_LOG_ERROR, in_line, NULL, NULL));
    klatch_test_panic(1);
    klatch_text_t *text;
    FAILS(klatch_engine_metrics(NULL, &text), KLATCH_ERROR_INTERNAL);
    latch_wait(&line, 1);
    OK(klatch_log_set(KLATCH_LOG_ERROR, NULL, NULL, NULL));
}

/* What frees user_data is itself a callback. */
static _Atomic(klatch_engine_t *) freeing;

static void free_engine(void *user_data) {
    (void)user_data;
    klatch_engine_free(atomic_load(&freeing));
    latch_add(&done);
}

static void never(void *user_data, const klatch_event_t *event) {
    (void)user_data, (void)event;
}

static latch_t waiting = LATCH;

static void *wait_for_end(void *engine) {
    klatch_event_t *event;
    latch_add(&waiting);
    FAILS(klatch_engine_next_event((klatch_engine_t *)engine, PATIENCE_MS, &event), KLATCH_ERROR_STOPPED);
    return NULL;
}

static void frees_in_frees(void) {
    unsigned ends = latch_count(&done);
    klatch_engine_t *engine = engine_in_memory(NULL);
    atomic_store(&freeing, engine);
    OK(klatch_engine_on_event(engine, never, NULL, free_engine));
    klatch_engine_free(engine);
    latch_wait(&done, ends + 1);
    engine = engine_in_memory(NULL);
    atomic_store(&freeing, engine);
    FAILS(klatch_engine_publish_then(engine, S(""), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), NULL, NULL, free_engine), NAME);
    latch_wait(&done, ends + 2);
    /* On the log's thread, while another waits for an event. */
    for (unsigned i = 0; i < 2; i++) {
        pthread_t waits;
        engine = ready(i == 0 ? "memory" : "frees");
        klatch_subscription_free(listening);
        atomic_store(&freeing, engine);
        CHECK(pthread_create(&waits, NULL, wait_for_end, engine) == 0);
        latch_wait(&waiting, i + 1);
        OK(klatch_engine_publish_then(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), NULL, NULL, free_engine));
        latch_wait(&done, ends + 3 + i);
        CHECK(pthread_join(waits, NULL) == 0);
    }
}

static void order(void) {
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine, *second;
    OK(klatch_builder_log(builder, S("memory")));
    FAILS(klatch_builder_start(builder, NULL), BAD);
    FAILS(klatch_builder_start(builder, &engine), KLATCH_ERROR_STOPPED);
    builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("here")));
    OK(klatch_builder_start(builder, &engine));
    builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("here")));
    FAILS(klatch_builder_start(builder, &second), KLATCH_ERROR_DATA_DIR_LOCKED);
    CHECK(second == NULL);
    klatch_consumer_t *consumer;
    FAILS(klatch_engine_consume(engine, NULL, NULL, NULL, NULL, &consumer), BAD);
    /* Children outlive their engine. */
    klatch_subscription_t *subscription;
    klatch_publications_t *batch;
    publish(engine, "lobby", "1");
    OK(klatch_engine_subscribe(engine, S("lobby"), 1, &subscription));
    klatch_engine_free(engine);
    FAILS(klatch_subscription_next(subscription, 1, 1, &batch), KLATCH_ERROR_ENDED);
    CHECK(klatch_subscription_epoch(subscription).len == 16);
    klatch_subscription_free(subscription);
    klatch_subscription_free(subscription);
    FAILS(klatch_subscription_next(subscription, 1, 1, &batch), KLATCH_ERROR_STOPPED);
    /* The directory is free again. */
    builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("here")));
    OK(klatch_builder_start(builder, &engine));
    klatch_engine_free(engine);
}

int main(void) {
    klatch_engine_t *engine = engine_in_memory(NULL);
    texts(engine);
    publish(engine, "lobby", "1");
    klatch_engine_free(engine);
    order();
    reentrancy("memory");
    reentrancy("reentrancy");
    reentrancy_in_hooks();
    frees_in_frees();
    logging();
    puts("ok");
    return 0;
}
