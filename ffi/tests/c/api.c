/* Every function once, as it is meant. */
#include "check.h"

static latch_t published = LATCH, published_freed = LATCH, hooks_freed = LATCH;

static void on_connect(void *user_data, klatch_request_t *request) {
    CHECK(user_data == &hooks_freed && klatch_request_what(request) == KLATCH_REQUEST_CONNECT);
    CHECK(strncmp(klatch_request_address(request).ptr, "127.0.0.1:", 10) == 0);
    klatch_str_t token = klatch_request_token(request);
    if (is(token, "no")) {
        OK(klatch_request_deny(request, S("not you")));
    } else if (is(token, "")) {
        OK(klatch_request_allow(request));
    } else {
        OK(klatch_request_allow_as(request, token));
    }
}

static void on_join(void *user_data, klatch_request_t *request) {
    CHECK(user_data == &hooks_freed && klatch_request_what(request) == KLATCH_REQUEST_JOIN);
    if (is(klatch_request_room(request), "closed")) {
        OK(klatch_request_deny(request, S("not this room")));
    } else {
        OK(klatch_request_allow(request));
    }
}

static void *answer_later(void *request) {
    OK(klatch_request_replace_json(request, S("\"***\"")));
    FAILS(klatch_request_allow(request), KLATCH_ERROR_BAD_REQUEST);
    CHECK(is(klatch_request_user(request), "bob"));
    klatch_request_free(request);
    return NULL;
}

static void on_publish(void *user_data, klatch_request_t *request) {
    CHECK(user_data == &hooks_freed && klatch_request_what(request) == KLATCH_REQUEST_PUBLISH);
    klatch_bytes_t data = klatch_request_data(request);
    CHECK(klatch_request_kind(request) == KLATCH_DATA_JSON);
    CHECK(is(klatch_request_room(request), "lobby") && strlen(klatch_request_connection(request).ptr) > 1);
    if (data_is(data, "\"bad\"")) {
        CHECK(is(klatch_request_id(request), "m1"));
        OK(klatch_request_deny(request, S("mind your language")));
    } else if (data_is(data, "\"later\"")) {
        pthread_t thread;
        OK(klatch_request_keep(request));
        CHECK(pthread_create(&thread, NULL, answer_later, request) == 0);
        CHECK(pthread_detach(thread) == 0);
    } else if (data_is(data, "\"bytes\"")) {
        FAILS(klatch_request_allow_as(request, S("ann")), KLATCH_ERROR_BAD_REQUEST);
        OK(klatch_request_replace_bytes(request, klatch_bytes("\0\1", 2)));
    } else if (!data_is(data, "\"forget\"")) {
        OK(klatch_request_allow(request));
    }
}

static void on_published(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error) {
    CHECK(user_data == &published_freed && error == NULL && ack != NULL);
    CHECK(is(klatch_ack_id(ack), "then-1") && klatch_ack_offset(ack) > 0 && !klatch_ack_duplicate(ack));
    latch_add(&published);
}

static void versions(void) {
    CHECK(klatch_version_number() == KLATCH_VERSION_NUMBER && klatch_abi_version() == KLATCH_ABI_VERSION);
    CHECK(klatch_version().len > 0 && strlen(klatch_version().ptr) == klatch_version().len);
}

static void settings(void) {
    klatch_engine_t *engine;
    klatch_builder_t *builder = klatch_builder_new();
    FAILS(klatch_builder_set(builder, S("limits.publish_rat"), S("1")), KLATCH_ERROR_INVALID_CONFIG);
    FAILS(klatch_builder_set(builder, S("shards"), S("many")), KLATCH_ERROR_INVALID_CONFIG);
    FAILS(klatch_builder_toml(builder, S("log = ")), KLATCH_ERROR_INVALID_CONFIG);
    FAILS(klatch_builder_json(builder, S("{\"log\": 7}")), KLATCH_ERROR_INVALID_CONFIG);
    OK(klatch_builder_toml(builder, S("log = \"memory\"\n[limits]\nmessage_bytes = 10\n")));
    OK(klatch_builder_json(builder, S("{\"log\": \"memory\", \"limits\": {\"message_bytes\": 20}}")));
    OK(klatch_builder_set(builder, S("limits.json_depth"), S("3")));
    OK(klatch_builder_set(builder, S("listen"), S("127.0.0.1:0, 127.0.0.1:0")));
    OK(klatch_builder_page(builder, S("<p>hello")));
    OK(klatch_builder_start(builder, &engine));
    FAILS(klatch_builder_log(builder, S("memory")), KLATCH_ERROR_STOPPED);
    klatch_builder_free(builder);
    CHECK(klatch_engine_address_count(engine) == 2 && klatch_engine_port(engine, 1) != 0);
    CHECK(klatch_engine_port(engine, 2) == 0 && is(klatch_engine_address(engine, 2), ""));
    CHECK(strncmp(klatch_engine_address(engine, 0).ptr, "127.0.0.1:", 10) == 0);
    FAILS(klatch_engine_publish(engine, S("r"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("\"0123456789012345678\""), 1000, NULL),
          KLATCH_ERROR_TOO_LARGE);
    FAILS(klatch_engine_publish(engine, S("r"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("[[[[1]]]]"), 1000, NULL),
          KLATCH_ERROR_TOO_DEEP);
    klatch_engine_free(engine);

    builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("nosuch://x")));
    FAILS(klatch_builder_start(builder, &engine), KLATCH_ERROR_INVALID_CONFIG);
    CHECK(engine == NULL);
    builder = klatch_builder_new();
    OK(klatch_builder_on_join(builder, on_join, NULL, NULL));
    FAILS(klatch_builder_start(builder, &engine), KLATCH_ERROR_INVALID_CONFIG);
}

static void publishing(klatch_engine_t *engine) {
    klatch_ack_t *ack, *again;
    OK(klatch_engine_publish(engine, S("lobby"), S("ann"), S("m-1"), KLATCH_DATA_JSON, klatch_json("{\"a\":1}"), PATIENCE_MS, &ack));
    CHECK(klatch_ack_offset(ack) == 1 && is(klatch_ack_id(ack), "m-1") && !klatch_ack_duplicate(ack));
    CHECK(klatch_ack_epoch(ack).len == 16);
    OK(klatch_engine_publish(engine, S("lobby"), S("ann"), S("m-1"), KLATCH_DATA_JSON, klatch_json("{\"a\":1}"), PATIENCE_MS, &again));
    CHECK(klatch_ack_duplicate(again) && klatch_ack_offset(again) == klatch_ack_offset(ack));
    klatch_ack_free(ack);
    klatch_ack_free(again);
    klatch_error_t *error = klatch_engine_publish(engine, S("lobby"), S("ann"), S("m-1"), KLATCH_DATA_JSON, klatch_json("2"), PATIENCE_MS, &ack);
    CHECK(ack == NULL && klatch_error_code(error) == KLATCH_ERROR_CONFLICT && is(klatch_error_name(error), "conflict"));
    CHECK(klatch_error_retry(error) == KLATCH_RETRY_NEVER && klatch_error_retry_after_ms(error) == 0);
    CHECK(klatch_error_message(error).len > 0);
    klatch_error_free(error);
    OK(klatch_engine_publish(engine, S("lobby"), S(""), S(""), KLATCH_DATA_BINARY, klatch_bytes("\0\377", 2), PATIENCE_MS, NULL));

    OK(klatch_engine_publish_then(engine, S("lobby"), S("ann"), S("then-1"), KLATCH_DATA_JSON, klatch_json("3"), on_published,
                                  &published_freed, latch_freed));
    latch_wait(&published, 1);
    latch_wait(&published_freed, 1);
    FAILS(klatch_engine_publish_then(engine, S(""), S("ann"), S(""), KLATCH_DATA_JSON, klatch_json("3"), on_published,
                                     &published_freed, latch_freed),
          KLATCH_ERROR_INVALID_NAME);
    latch_wait(&published_freed, 2);
    OK(klatch_engine_publish_then(engine, S("lobby"), S("ann"), S(""), KLATCH_DATA_JSON, klatch_json("4"), NULL, NULL, NULL));

    klatch_batch_t *batch = klatch_batch_new();
    klatch_outcomes_t *outcomes;
    OK(klatch_batch_add(batch, S("batch"), S("ann"), S("b-1"), KLATCH_DATA_JSON, klatch_json("1")));
    OK(klatch_batch_add(batch, S("batch"), S("ann"), S("~b"), KLATCH_DATA_JSON, klatch_json("2")));
    OK(klatch_batch_add(batch, S("batch"), S("ann"), S("b-3"), KLATCH_DATA_JSON, klatch_json("3")));
    OK(klatch_engine_publish_batch(engine, batch, PATIENCE_MS, &outcomes));
    CHECK(klatch_outcomes_count(outcomes) == 3);
    CHECK(klatch_outcomes_error(outcomes, 0) == NULL && is(klatch_ack_id(klatch_outcomes_ack(outcomes, 0)), "b-1"));
    CHECK(klatch_error_code(klatch_outcomes_error(outcomes, 1)) == KLATCH_ERROR_INVALID_ID);
    CHECK(klatch_outcomes_ack(outcomes, 1) == NULL && klatch_outcomes_ack(outcomes, 3) == NULL);
    CHECK(klatch_ack_offset(klatch_outcomes_ack(outcomes, 2)) > klatch_ack_offset(klatch_outcomes_ack(outcomes, 0)));
    klatch_outcomes_free(outcomes);
    OK(klatch_engine_publish_batch(engine, batch, PATIENCE_MS, &outcomes));
    CHECK(klatch_outcomes_count(outcomes) == 0);
    klatch_outcomes_free(outcomes);
    klatch_batch_free(batch);
}

static void history(klatch_engine_t *engine) {
    klatch_publications_t *page, *copy;
    OK(klatch_engine_history(engine, S("lobby"), 0, 0, 2, false, 0, &page));
    CHECK(klatch_publications_count(page) == 2 && klatch_publications_more(page) && klatch_publications_last(page) >= 4);
    copy = klatch_publications_clone(page);
    klatch_publications_free(page);
    const klatch_publication_t *first = klatch_publications_at(copy, 0), *second = klatch_publications_at(copy, 1);
    CHECK(is(klatch_publication_room(first), "lobby") && is(klatch_publication_user(first), "ann"));
    CHECK(is(klatch_publication_id(first), "m-1") && data_is(klatch_publication_data(first), "{\"a\":1}"));
    CHECK(klatch_publication_kind(first) == KLATCH_DATA_JSON && klatch_publication_prev(first) == 0);
    CHECK(klatch_publication_offset(first) == 1 && klatch_publication_time(first) > 0);
    CHECK(klatch_publication_kind(second) == KLATCH_DATA_BINARY && klatch_publication_data(second).len == 2);
    CHECK(klatch_publication_data(second).ptr[1] == 255 && klatch_publication_prev(second) == 1);
    CHECK(is(klatch_publication_user(second), "") && klatch_publication_id(second).ptr[0] == '~');
    CHECK(klatch_publications_at(copy, 2) == NULL && klatch_publications_epoch(copy).len == 16);
    klatch_publications_free(copy);
    OK(klatch_engine_history(engine, S("lobby"), 0, 0, 1, true, 0, &page));
    CHECK(data_is(klatch_publication_data(klatch_publications_at(page, 0)), "4"));
    klatch_publications_free(page);
    FAILS(klatch_engine_history(engine, S("lobby"), 0, 0, 1, true, 1000000, &page), KLATCH_ERROR_UNAVAILABLE);
    CHECK(page == NULL);
}

static latch_t came = LATCH, ended = LATCH, came_freed = LATCH;

static void on_publications(void *user_data, const klatch_publications_t *publications, int32_t why) {
    CHECK(user_data == &came_freed);
    if (why != KLATCH_ENDED_NOT) {
        CHECK(why == KLATCH_ENDED_STOPPED && publications == NULL);
        latch_add(&ended);
        return;
    }
    for (size_t i = 0; i < klatch_publications_count(publications); i++) latch_add(&came);
}

static klatch_subscription_t *subscriptions(klatch_engine_t *engine) {
    klatch_subscription_t *one, *two;
    klatch_publications_t *batch;
    OK(klatch_engine_subscribe(engine, S("talk"), 0, &one));
    CHECK(klatch_subscription_ended(one) == KLATCH_ENDED_NOT && klatch_subscription_epoch(one).len == 16);
    OK(klatch_subscription_next(one, 10, 0, &batch));
    CHECK(batch == NULL);
    publish(engine, "talk", "1");
    publish(engine, "talk", "2");
    OK(klatch_subscription_next(one, 1, PATIENCE_MS, &batch));
    CHECK(klatch_publications_count(batch) == 1 && data_is(klatch_publication_data(klatch_publications_at(batch, 0)), "1"));
    uint64_t at = klatch_publication_offset(klatch_publications_at(batch, 0));
    CHECK(klatch_subscription_offset(one) == at);
    OK(klatch_engine_subscribe_since(engine, S("talk"), klatch_publications_epoch(batch), at, 9, &two));
    klatch_publications_free(batch);
    CHECK(klatch_subscription_recovered(two));
    OK(klatch_subscription_next(two, 10, PATIENCE_MS, &batch));
    CHECK(klatch_publications_count(batch) == 1 && data_is(klatch_publication_data(klatch_publications_at(batch, 0)), "2"));
    klatch_publications_free(batch);
    klatch_subscription_free(two);
    OK(klatch_engine_subscribe_since(engine, S("talk"), S("00000000000000aa"), at, 1, &two));
    CHECK(!klatch_subscription_recovered(two));
    klatch_subscription_free(two);
    FAILS(klatch_engine_subscribe_since(engine, S("talk"), S("not one"), at, 1, &two), KLATCH_ERROR_BAD_REQUEST);
    CHECK(two == NULL);

    /* Of all rooms, from now on. */
    OK(klatch_engine_subscribe_all(engine, &two));
    CHECK(!klatch_subscription_recovered(two));
    publish(engine, "hall", "7");
    OK(klatch_subscription_next(two, 10, PATIENCE_MS, &batch));
    CHECK(klatch_publications_count(batch) == 1 && is(klatch_publication_room(klatch_publications_at(batch, 0)), "hall"));
    klatch_publications_free(batch);
    klatch_subscription_free(two);
    FAILS(klatch_engine_subscribe_all(NULL, &two), KLATCH_ERROR_BAD_REQUEST);
    CHECK(two == NULL);

    /* By a descriptor: readable until nothing more is there. */
    int32_t fd;
    OK(klatch_subscription_fd(one, &fd));
    struct pollfd wait = {fd, POLLIN, 0};
    unsigned seen = 0;
    for (int turn = 0; turn < 3; turn++) {
        if (turn > 0) publish(engine, "talk", "3");
        while (seen < 1u + (unsigned)turn) {
            CHECK(poll(&wait, 1, PATIENCE_MS) == 1);
            do {
                OK(klatch_subscription_next(one, 1, 0, &batch));
                seen += (unsigned)klatch_publications_count(batch);
                klatch_publications_free(batch);
            } while (batch != NULL);
        }
        CHECK(poll(&wait, 1, 0) == 0);
    }
    klatch_subscription_free(one);

    /* By a callback. */
    OK(klatch_engine_subscribe(engine, S("talk"), 2, &one));
    OK(klatch_subscription_on_publications(one, on_publications, &came_freed, latch_freed));
    FAILS(klatch_subscription_next(one, 1, 0, &batch), KLATCH_ERROR_BUSY);
    FAILS(klatch_subscription_on_publications(one, on_publications, NULL, NULL), KLATCH_ERROR_BUSY);
    latch_wait(&came, 2);
    publish(engine, "talk", "4");
    latch_wait(&came, 3);
    return one;
}

static latch_t events = LATCH, events_freed = LATCH;

static void on_event(void *user_data, const klatch_event_t *event) {
    CHECK(user_data == &events_freed);
    klatch_event_t *copy = klatch_event_clone(event);
    CHECK(klatch_event_kind(copy) == klatch_event_kind(event));
    klatch_event_free(copy);
    latch_add(&events);
}

static void expect_event(klatch_engine_t *engine, int32_t kind) {
    klatch_event_t *event;
    OK(klatch_engine_next_event(engine, PATIENCE_MS, &event));
    CHECK(klatch_event_kind(event) == kind && is(klatch_event_user(event), "bob"));
    if (kind == KLATCH_EVENT_CONNECTED) CHECK(strncmp(klatch_event_address(event).ptr, "127.0.0.1:", 10) == 0);
    if (kind == KLATCH_EVENT_JOINED) CHECK(is(klatch_event_room(event), "lobby"));
    CHECK(klatch_event_code(event) == 0 && is(klatch_event_reason(event), "") && klatch_event_count(event) == 0);
    klatch_event_free(event);
}

static void clients(klatch_engine_t *engine) {
    char connection[64], text[256];
    klatch_event_t *event;
    klatch_presence_t *presence;
    OK(klatch_engine_next_event(engine, 0, &event));
    CHECK(event == NULL);
    client_t *bob = client_connect(engine, "room=lobby&token=bob");
    client_expect(bob, "\"welcome\"");
    expect_event(engine, KLATCH_EVENT_CONNECTED);
    OK(klatch_engine_next_event(engine, PATIENCE_MS, &event));
    CHECK(klatch_event_kind(event) == KLATCH_EVENT_JOINED && klatch_event_connection(event).len < sizeof connection);
    strcpy(connection, klatch_event_connection(event).ptr);
    klatch_event_free(event);
    client_expect(bob, "\"joined\"");

    OK(klatch_engine_presence(engine, S("lobby"), &presence));
    CHECK(klatch_presence_count(presence) == 1 && klatch_presence_user_count(presence) == 1);
    CHECK(is(klatch_presence_user(presence, 0), "bob") && klatch_presence_connections(presence, 0) == 1);
    CHECK(is(klatch_presence_user(presence, 1), "") && !klatch_presence_truncated(presence));
    klatch_presence_free(presence);

    OK(klatch_engine_signal(engine, S("lobby"), S("ann"), S("typing"), S("true")));
    CHECK(strstr(client_expect(bob, "\"signal\""), "\"user\":\"ann\"") != NULL);
    OK(klatch_engine_send(engine, S(connection), S("hint"), S("[1]")));
    const char *hint = client_expect(bob, "\"hint\"");
    CHECK(strstr(hint, "\"data\":[1]") != NULL && strstr(hint, "\"room\"") == NULL);
    FAILS(klatch_engine_send(engine, S("nobody"), S("hint"), S("1")), KLATCH_ERROR_BAD_REQUEST);
    OK(klatch_engine_send(engine, S("c00000000000000ff"), S("hint"), S("1")));

    client_send(bob, "{\"type\":\"publish\",\"room\":\"lobby\",\"ref\":1,\"id\":\"m1\",\"data\":\"bad\"}");
    CHECK(strstr(client_expect(bob, "\"ref\":1"), "mind your language") != NULL);
    client_send(bob, "{\"type\":\"publish\",\"room\":\"lobby\",\"ref\":2,\"id\":\"m2\",\"data\":\"later\"}");
    client_expect(bob, "\"data\":\"***\"");
    client_send(bob, "{\"type\":\"publish\",\"room\":\"lobby\",\"ref\":3,\"id\":\"m3\",\"data\":\"bytes\"}");
    client_expect(bob, "\"bytes\":\"AAE=\"");
    client_send(bob, "{\"type\":\"publish\",\"room\":\"lobby\",\"ref\":4,\"id\":\"m4\",\"data\":\"forget\"}");
    CHECK(strstr(client_expect(bob, "\"ref\":4"), "\"internal\"") != NULL);
    client_send(bob, "{\"type\":\"join\",\"room\":\"closed\",\"ref\":5}");
    CHECK(strstr(client_expect(bob, "\"ref\":5"), "not this room") != NULL);
    snprintf(text, sizeof text, "room=lobby&token=no&user=x");
    client_t *denied = client_connect(engine, text);
    CHECK(strstr(client_next(denied), "not you") != NULL);
    client_expect(denied, "close 4501");
    client_close(denied);

    OK(klatch_engine_kick_connection(engine, S(connection), S("lobby")));
    client_expect(bob, "\"left\"");
    expect_event(engine, KLATCH_EVENT_LEFT);

    /* From here on by a descriptor, then by a callback. */
    int32_t fd;
    OK(klatch_engine_event_fd(engine, &fd));
    struct pollfd wait = {fd, POLLIN, 0};
    CHECK(poll(&wait, 1, PATIENCE_MS) == 1);
    OK(klatch_engine_next_event(engine, 0, &event));
    CHECK(event == NULL && poll(&wait, 1, 0) == 0);
    OK(klatch_engine_kick_user(engine, S("bob"), S("")));
    client_expect(bob, "close 4500");
    CHECK(poll(&wait, 1, PATIENCE_MS) == 1);
    OK(klatch_engine_next_event(engine, PATIENCE_MS, &event));
    CHECK(klatch_event_kind(event) == KLATCH_EVENT_DISCONNECTED && klatch_event_code(event) == 4500);
    CHECK(is(klatch_event_reason(event), "kicked"));
    klatch_event_free(event);
    client_close(bob);

    OK(klatch_engine_on_event(engine, on_event, &events_freed, latch_freed));
    bob = client_connect(engine, "room=lobby&token=bob");
    client_expect(bob, "\"joined\"");
    latch_wait(&events, 2);
    OK(klatch_engine_on_event(engine, NULL, NULL, NULL));
    CHECK(latch_count(&events_freed) == 1);
    client_close(bob);
}

static atomic_uint lines, panics;
static latch_t lines_freed = LATCH;

static void on_line(void *user_data, int32_t level, klatch_str_t target, klatch_str_t message) {
    CHECK(user_data == &lines_freed && level >= KLATCH_LOG_ERROR && level <= KLATCH_LOG_INFO);
    CHECK(strncmp(target.ptr, "klatch", 6) == 0 && message.len > 0);
    if (strstr(message.ptr, "panic") != NULL) atomic_fetch_add(&panics, 1);
    atomic_fetch_add(&lines, 1);
}

void klatch_test_panic(uint32_t calls);

int main(void) {
    versions();
    settings();
    OK(klatch_log_set(KLATCH_LOG_INFO, on_line, &lines_freed, latch_freed));

    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_on_connect(builder, on_connect, &hooks_freed, latch_freed));
    OK(klatch_builder_on_join(builder, on_join, &hooks_freed, latch_freed));
    OK(klatch_builder_on_publish(builder, on_publish, &hooks_freed, latch_freed));
    klatch_engine_t *engine = engine_in_memory(builder);
    CHECK(klatch_engine_health(engine) == KLATCH_HEALTH_UP);
    publishing(engine);
    history(engine);
    klatch_subscription_t *subscription = subscriptions(engine);
    clients(engine);

    klatch_text_t *text;
    OK(klatch_engine_metrics(engine, &text));
    CHECK(strstr(klatch_text_str(text).ptr, "\nklatch_publishes_stored_total ") != NULL);
    klatch_text_free(text);

    klatch_consume_t *consume = klatch_consume_new();
    klatch_consumer_t *consumer;
    OK(klatch_consume_group(consume, S("archive")));
    OK(klatch_consume_from_end(consume));
    OK(klatch_consume_threads(consume, 2));
    OK(klatch_consume_retry(consume, 10, 100));
    OK(klatch_consume_release(consume, 1000));
    OK(klatch_consume_property(consume, S("client.id"), S("x")));
    FAILS(klatch_engine_consume(engine, consume, NULL, NULL, NULL, &consumer), KLATCH_ERROR_BAD_REQUEST);
    CHECK(consumer == NULL);
    klatch_consume_free(consume);

    klatch_test_panic(1);
    FAILS(klatch_engine_metrics(engine, &text), KLATCH_ERROR_INTERNAL);

    uint64_t unwritten = 99;
    OK(klatch_engine_stop(engine, PATIENCE_MS, &unwritten));
    CHECK(unwritten == 0 && klatch_engine_health(engine) == KLATCH_HEALTH_STOPPED);
    latch_wait(&ended, 1);
    CHECK(klatch_subscription_ended(subscription) == KLATCH_ENDED_STOPPED);
    OK(klatch_engine_stop(engine, 0, NULL));
    FAILS(klatch_engine_publish(engine, S("lobby"), S(""), S(""), KLATCH_DATA_JSON, klatch_json("1"), 0, NULL), KLATCH_ERROR_STOPPED);
    klatch_event_t *event;
    klatch_error_t *error;
    while ((error = klatch_engine_next_event(engine, PATIENCE_MS, &event)) == NULL) klatch_event_free(event);
    FAILS(error, KLATCH_ERROR_STOPPED);
    klatch_engine_free(engine);
    CHECK(latch_count(&hooks_freed) == 3);
    klatch_subscription_free(subscription);
    CHECK(latch_count(&came_freed) == 1);

    OK(klatch_log_set(KLATCH_LOG_INFO, NULL, NULL, NULL));
    CHECK(latch_count(&lines_freed) == 1 && atomic_load(&panics) == 1);
    puts("ok");
    return 0;
}
