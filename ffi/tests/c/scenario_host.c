/* A host program for tests/scenarios: it is told a verb and its arguments a line, on standard input, and answers a line of JSON. Fields are
 * separated by tabs; in them, %XX stands for a byte that would be in the way. */
#include "check.h"

#define FIELDS 16
#define MAX 64

static klatch_engine_t *engine, *engines[MAX], *events;
static size_t engine_count;
static struct {
    char *name;
    klatch_subscription_t *subscription;
} subscriptions[MAX];
static size_t subscription_count;
static klatch_batch_t *batch;

/* Requests that are never answered. */
static pthread_mutex_t kept_mutex = PTHREAD_MUTEX_INITIALIZER;
static klatch_request_t *kept[MAX];
static size_t kept_count;

static char *fields[FIELDS];
static size_t lengths[FIELDS];
static int field_count;

static klatch_str_t text(int i) {
    CHECK(i < field_count);
    return klatch_str_n(fields[i], lengths[i]);
}

static uint64_t number(int i) {
    CHECK(i < field_count);
    return strtoull(fields[i], NULL, 10);
}

static unsigned digit(char c) {
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Takes a line apart, in place. */
static void take(char *line, size_t len) {
    field_count = 0;
    char *end = line + len;
    for (char *from = line; from <= end;) {
        char *to = memchr(from, '\t', (size_t)(end - from));
        if (to == NULL) to = end;
        CHECK(field_count < FIELDS);
        char *out = from;
        fields[field_count] = from;
        for (char *in = from; in < to; in++) {
            if (*in == '%') {
                *out++ = (char)(digit(in[1]) << 4 | digit(in[2]));
                in += 2;
            } else {
                *out++ = *in;
            }
        }
        lengths[field_count++] = (size_t)(out - from);
        *out = 0;
        from = to + 1;
    }
}

static void say_text(klatch_str_t s) {
    putchar('"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\' || c < 32) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void say_error(const klatch_error_t *error) {
    static const char *const retries[] = {"", "later", "never", "same_id", "forbidden", "operator"};
    printf("{\"error\":{\"code\":%d,\"name\":", (int)klatch_error_code(error));
    say_text(klatch_error_name(error));
    printf(",\"retry\":\"%s\"}}", retries[klatch_error_retry(error)]);
}

/* Whether it failed; then it is said. */
static int failed(klatch_error_t *error) {
    if (error == NULL) return 0;
    say_error(error);
    klatch_error_free(error);
    return 1;
}

static void done(klatch_error_t *error) {
    if (!failed(error)) printf("null");
}

static void say_ack(const klatch_ack_t *ack) {
    printf("{\"epoch\":");
    say_text(klatch_ack_epoch(ack));
    printf(",\"offset\":%llu,\"id\":", (unsigned long long)klatch_ack_offset(ack));
    say_text(klatch_ack_id(ack));
    printf(",\"duplicate\":%s}", klatch_ack_duplicate(ack) ? "true" : "false");
}

/* The data comes as text, or as bytes in hexadecimal digits, and is given its form by who reads this. */
static void say_publications(const klatch_publications_t *page, int *first) {
    for (size_t i = 0; i < klatch_publications_count(page); i++) {
        const klatch_publication_t *p = klatch_publications_at(page, i);
        klatch_bytes_t data = klatch_publication_data(p);
        if (!*first) putchar(',');
        *first = 0;
        printf("{\"room\":");
        say_text(klatch_publication_room(p));
        printf(",\"offset\":%llu,\"prev\":%llu,\"time\":%llu", (unsigned long long)klatch_publication_offset(p),
               (unsigned long long)klatch_publication_prev(p), (unsigned long long)klatch_publication_time(p));
        if (klatch_publication_user(p).len > 0) {
            printf(",\"user\":");
            say_text(klatch_publication_user(p));
        }
        if (klatch_publication_id(p).ptr[0] != '~') {
            printf(",\"id\":");
            say_text(klatch_publication_id(p));
        }
        if (klatch_publication_kind(p) == KLATCH_DATA_JSON) {
            printf(",\"raw\":");
            say_text(klatch_str_n((const char *)data.ptr, data.len));
        } else {
            printf(",\"hex\":\"");
            for (size_t at = 0; at < data.len; at++) printf("%02x", data.ptr[at]);
            putchar('"');
        }
        putchar('}');
    }
}

static klatch_subscription_t *subscription(void) {
    for (size_t i = subscription_count; i-- > 0;)
        if (is(text(1), subscriptions[i].name)) return subscriptions[i].subscription;
    CHECK(!"a subscription of this name");
    return NULL;
}

static void keep(klatch_request_t *request) {
    OK(klatch_request_keep(request));
    pthread_mutex_lock(&kept_mutex);
    CHECK(kept_count < MAX);
    kept[kept_count++] = request;
    pthread_mutex_unlock(&kept_mutex);
}

/* What a hook does that its word asks for, and that is no answer. C has nothing to throw: it returns without one. */
static int is_none(klatch_request_t *request, klatch_str_t word) {
    if (is(word, "never")) keep(request);
    return is(word, "never") || is(word, "throw") || is(word, "drop");
}

static void on_connect(void *user_data, klatch_request_t *request) {
    (void)user_data;
    klatch_str_t token = klatch_request_token(request);
    if (is(token, "")) {
        OK(klatch_request_allow(request));
    } else if (is(token, "deny")) {
        OK(klatch_request_deny(request, S("no entry")));
    } else if (!is_none(request, token)) {
        CHECK(strncmp(token.ptr, "user:", 5) == 0);
        OK(klatch_request_allow_as(request, klatch_str_n(token.ptr + 5, token.len - 5)));
    }
}

static void on_join(void *user_data, klatch_request_t *request) {
    (void)user_data;
    char word[256];
    klatch_str_t room = klatch_request_room(request);
    snprintf(word, sizeof word, "%.*s", (int)strcspn(room.ptr, "-"), room.ptr);
    if (strcmp(word, "deny") == 0) {
        OK(klatch_request_deny(request, S("not this room")));
    } else if (!is_none(request, S(word))) {
        OK(klatch_request_allow(request));
    }
}

static void on_publish(void *user_data, klatch_request_t *request) {
    (void)user_data;
    klatch_bytes_t data = klatch_request_data(request);
    klatch_str_t word = data.len > 2 ? klatch_str_n((const char *)data.ptr + 1, data.len - 2) : S("");
    char copy[64] = {0};
    if (word.len < sizeof copy) memcpy(copy, word.ptr, word.len);
    if (strcmp(copy, "deny") == 0) {
        OK(klatch_request_deny(request, S("not this message")));
    } else if (strcmp(copy, "replace") == 0) {
        OK(klatch_request_replace_json(request, S("{\"replaced\":true}")));
    } else if (strcmp(copy, "replace bytes") == 0) {
        OK(klatch_request_replace_bytes(request, klatch_bytes("replaced", 8)));
    } else if (!is_none(request, S(copy))) {
        OK(klatch_request_allow(request));
    }
}

static void start(void) {
    klatch_builder_t *builder = klatch_builder_new();
    OK(klatch_builder_json(builder, text(1)));
    if (number(2)) {
        OK(klatch_builder_on_connect(builder, on_connect, NULL, NULL));
        OK(klatch_builder_on_join(builder, on_join, NULL, NULL));
        OK(klatch_builder_on_publish(builder, on_publish, NULL, NULL));
    }
    if (failed(klatch_builder_start(builder, &engine))) return;
    CHECK(engine_count < MAX);
    engines[engine_count++] = engine;
    say_text(klatch_engine_address(engine, 0));
}

static void publish_one(void) {
    klatch_ack_t *ack;
    if (failed(klatch_engine_publish(engine, text(1), text(2), text(3), (int32_t)number(4), klatch_bytes(fields[5], lengths[5]), PATIENCE_MS,
                                     &ack)))
        return;
    say_ack(ack);
    klatch_ack_free(ack);
}

/* Messages that the batch itself refuses have no outcome in it. */
static struct {
    klatch_error_t *refused;
} added[MAX];
static size_t added_count;

static void add(void) {
    CHECK(added_count < MAX);
    if (batch == NULL) batch = klatch_batch_new();
    added[added_count++].refused =
        klatch_batch_add(batch, text(1), text(2), text(3), (int32_t)number(4), klatch_bytes(fields[5], lengths[5]));
    printf("null");
}

static void publish_batch(void) {
    klatch_outcomes_t *outcomes;
    size_t at = 0;
    OK(klatch_engine_publish_batch(engine, batch, PATIENCE_MS, &outcomes));
    putchar('[');
    for (size_t i = 0; i < added_count; i++) {
        if (i > 0) putchar(',');
        if (failed(added[i].refused)) continue;
        const klatch_ack_t *ack = klatch_outcomes_ack(outcomes, at);
        if (ack != NULL) say_ack(ack);
        else say_error(klatch_outcomes_error(outcomes, at));
        at++;
    }
    putchar(']');
    CHECK(at == klatch_outcomes_count(outcomes));
    klatch_outcomes_free(outcomes);
    klatch_batch_free(batch);
    batch = NULL;
    added_count = 0;
}

static void subscribe(void) {
    klatch_subscription_t *s;
    klatch_error_t *error = is(text(3), "since")
                                ? klatch_engine_subscribe_since(engine, text(2), text(4), number(5), (uint32_t)number(6), &s)
                                : klatch_engine_subscribe(engine, text(2), (uint32_t)number(6), &s);
    if (failed(error)) return;
    CHECK(subscription_count < MAX);
    subscriptions[subscription_count].name = strdup(fields[1]);
    subscriptions[subscription_count++].subscription = s;
    printf("{\"recovered\":%s,\"epoch\":", klatch_subscription_recovered(s) ? "true" : "false");
    say_text(klatch_subscription_epoch(s));
    printf(",\"offset\":%llu}", (unsigned long long)klatch_subscription_offset(s));
}

static void next(void) {
    size_t wanted = number(2);
    int first = 1;
    putchar('[');
    while (wanted > 0) {
        klatch_publications_t *got;
        OK(klatch_subscription_next(subscription(), wanted, PATIENCE_MS, &got));
        CHECK(got != NULL && klatch_publications_count(got) <= wanted);
        say_publications(got, &first);
        wanted -= klatch_publications_count(got);
        klatch_publications_free(got);
    }
    putchar(']');
}

static void next_nothing(void) {
    klatch_publications_t *got;
    OK(klatch_subscription_next(subscription(), 1, 0, &got));
    CHECK(got == NULL);
    printf("null");
}

static void next_ended(void) {
    static const char *const why[] = {"not", "closed", "slow", "dropped", "unreadable", "reset", "stopped"};
    klatch_publications_t *got;
    FAILS(klatch_subscription_next(subscription(), 1, PATIENCE_MS, &got), KLATCH_ERROR_ENDED);
    printf("\"%s\"", why[klatch_subscription_ended(subscription())]);
}

static void history(void) {
    klatch_publications_t *page;
    int first = 1;
    if (failed(klatch_engine_history(engine, text(1), number(2), number(3), (uint32_t)number(4), number(5) != 0, number(6), &page))) return;
    printf("{\"epoch\":");
    say_text(klatch_publications_epoch(page));
    printf(",\"publications\":[");
    say_publications(page, &first);
    printf("],\"more\":%s,\"last\":%llu}", klatch_publications_more(page) ? "true" : "false",
           (unsigned long long)klatch_publications_last(page));
    klatch_publications_free(page);
}

static void presence(void) {
    klatch_presence_t *list;
    if (failed(klatch_engine_presence(engine, text(1), &list))) return;
    printf("{\"count\":%u,\"users\":[", (unsigned)klatch_presence_count(list));
    for (size_t i = 0; i < klatch_presence_user_count(list); i++) {
        printf("%s{\"user\":", i > 0 ? "," : "");
        say_text(klatch_presence_user(list, i));
        printf(",\"connections\":%u}", (unsigned)klatch_presence_connections(list, i));
    }
    printf("]%s}", klatch_presence_truncated(list) ? ",\"truncated\":true" : "");
    klatch_presence_free(list);
}

static void open_events(void) {
    klatch_event_t *event;
    OK(klatch_engine_next_event(engine, 0, &event));
    CHECK(event == NULL);
    events = engine;
    printf("null");
}

static void say_reason(const char *key, const klatch_event_t *event) {
    printf(",\"%s\":", key);
    if (klatch_event_code(event) == 0) printf("null");
    else say_text(klatch_event_reason(event));
}

static void next_event(void) {
    static const char *const kinds[] = {"other", "connected", "disconnected", "joined", "left", "storage", "lost"};
    klatch_event_t *event;
    OK(klatch_engine_next_event(events, PATIENCE_MS, &event));
    CHECK(event != NULL);
    int32_t kind = klatch_event_kind(event);
    printf("{\"type\":\"%s\"", kinds[kind]);
    if (kind <= KLATCH_EVENT_LEFT) {
        printf(",\"connection\":");
        say_text(klatch_event_connection(event));
        printf(",\"user\":");
        say_text(klatch_event_user(event));
    }
    if (kind == KLATCH_EVENT_JOINED || kind == KLATCH_EVENT_LEFT) {
        printf(",\"room\":");
        say_text(klatch_event_room(event));
    }
    if (kind == KLATCH_EVENT_DISCONNECTED) say_reason("why", event);
    if (kind == KLATCH_EVENT_STORAGE) say_reason("refusing", event);
    if (kind == KLATCH_EVENT_LOST) printf(",\"count\":%llu", (unsigned long long)klatch_event_count(event));
    putchar('}');
    klatch_event_free(event);
}

static void carry_out(void) {
    klatch_str_t verb = text(0);
    if (is(verb, "start")) start();
    else if (is(verb, "stop")) done(engine == NULL ? NULL : klatch_engine_stop(engine, 5000, NULL));
    else if (is(verb, "publish")) publish_one();
    else if (is(verb, "add")) add();
    else if (is(verb, "publish_batch")) publish_batch();
    else if (is(verb, "subscribe")) subscribe();
    else if (is(verb, "next")) next();
    else if (is(verb, "next_nothing")) next_nothing();
    else if (is(verb, "next_ended")) next_ended();
    else if (is(verb, "history")) history();
    else if (is(verb, "presence")) presence();
    else if (is(verb, "signal")) done(klatch_engine_signal(engine, text(1), text(2), text(3), text(4)));
    else if (is(verb, "send")) done(klatch_engine_send(engine, text(1), text(2), text(3)));
    else if (is(verb, "kick_user")) done(klatch_engine_kick_user(engine, text(1), text(2)));
    else if (is(verb, "kick_connection")) done(klatch_engine_kick_connection(engine, text(1), text(2)));
    else if (is(verb, "events")) open_events();
    else if (is(verb, "event")) next_event();
    else CHECK(!"a verb that is known");
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    while ((len = getline(&line, &room, stdin)) > 0) {
        CHECK(line[len - 1] == '\n');
        take(line, (size_t)len - 1);
        carry_out();
        putchar('\n');
        CHECK(fflush(stdout) == 0);
    }
    free(line);
    for (size_t i = 0; i < engine_count; i++) klatch_engine_free(engines[i]);
    for (size_t i = 0; i < subscription_count; i++) {
        klatch_subscription_free(subscriptions[i].subscription);
        free(subscriptions[i].name);
    }
    for (size_t i = 0; i < kept_count; i++) klatch_request_free(kept[i]);
    return 0;
}
