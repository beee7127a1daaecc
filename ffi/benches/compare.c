/* The work of compare.rs, through klatch.h: MODE, how many messages, and what it cost on standard output. */
#include <klatch.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DATA "{\"text\":\"hey, are we still on for tonight? I can bring the board game and some snacks, see you at eight, ok\"}"

static void check(klatch_error_t *error) {
    if (error == NULL) return;
    fprintf(stderr, "%s: %s\n", klatch_error_name(error).ptr, klatch_error_message(error).ptr);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static klatch_engine_t *engine;

static void publish_wait(long i) {
    (void)i;
    klatch_ack_t *ack;
    check(klatch_engine_publish(engine, klatch_str("lobby"), klatch_str("ann"), klatch_str(""), KLATCH_DATA_JSON, klatch_json(DATA), 10000, &ack));
    if (klatch_ack_offset(ack) == 0) exit(1);
    klatch_ack_free(ack);
}

static long told;

static void published(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error) {
    (void)user_data, (void)error;
    told += klatch_ack_offset(ack) > 0;
}

static void publish_then(long i) {
    (void)i;
    check(klatch_engine_publish_then(engine, klatch_str("lobby"), klatch_str("ann"), klatch_str(""), KLATCH_DATA_JSON, klatch_json(DATA),
                                     published, NULL, NULL));
}

/* A batch of 256 messages. */
static void publish_batch(long i) {
    if (i % 256 != 0) return;
    klatch_batch_t *batch = klatch_batch_new();
    klatch_outcomes_t *outcomes;
    for (int n = 0; n < 256; n++) {
        check(klatch_batch_add(batch, klatch_str("lobby"), klatch_str("ann"), klatch_str(""), KLATCH_DATA_JSON, klatch_json(DATA)));
    }
    check(klatch_engine_publish_batch(engine, batch, 10000, &outcomes));
    for (size_t n = 0; n < klatch_outcomes_count(outcomes); n++) {
        if (klatch_ack_offset(klatch_outcomes_ack(outcomes, n)) == 0) exit(1);
    }
    klatch_outcomes_free(outcomes);
    klatch_batch_free(batch);
}

static double publishing(void (*publish)(long), long count) {
    for (long i = 0; i < count / 8; i++) publish(i);
    double began = now();
    for (long i = 0; i < count; i++) publish(i);
    return (now() - began) / (double)count;
}

/* What a host does with a publication: it looks at all of it. */
static double reading(long count) {
    klatch_subscription_t *subscription;
    check(klatch_engine_subscribe(engine, klatch_str("lobby"), 0, &subscription));
    for (long i = 0; i < count; i++) publish_batch(i);
    size_t bytes = 0;
    long seen = 0;
    double began = now();
    while (seen < count) {
        klatch_publications_t *batch;
        check(klatch_subscription_next(subscription, 64, 10000, &batch));
        size_t n = klatch_publications_count(batch);
        for (size_t i = 0; i < n; i++) {
            const klatch_publication_t *p = klatch_publications_at(batch, i);
            bytes += klatch_publication_room(p).len + klatch_publication_user(p).len + klatch_publication_id(p).len;
            bytes += klatch_publication_data(p).len + klatch_publication_offset(p);
        }
        seen += (long)n;
        klatch_publications_free(batch);
    }
    double took = now() - began;
    if (bytes == 0) exit(1);
    klatch_subscription_free(subscription);
    return took / (double)seen;
}

/* The events of a client that comes and goes in rooms, once it has done so. */
static double events(long count) {
    klatch_event_t *event;
    char line[16];
    size_t bytes = 0;
    check(klatch_engine_next_event(engine, 0, &event));
    printf("%u\n", (unsigned)klatch_engine_port(engine, 0));
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL) exit(1);
    double began = now();
    for (long i = 0; i < count; i++) {
        check(klatch_engine_next_event(engine, 10000, &event));
        bytes += klatch_event_connection(event).len + klatch_event_user(event).len + klatch_event_room(event).len;
        bytes += (size_t)klatch_event_kind(event);
        klatch_event_free(event);
    }
    double took = now() - began;
    if (bytes == 0) exit(1);
    return took / (double)count;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const char *mode = argv[1];
    long count = atol(argv[2]);
    klatch_builder_t *builder = klatch_builder_new();
    check(klatch_builder_json(builder, klatch_str(argv[3])));
    check(klatch_builder_start(builder, &engine));
    double ns = strcmp(mode, "publish_wait") == 0    ? publishing(publish_wait, count)
                : strcmp(mode, "publish_then") == 0  ? publishing(publish_then, count)
                : strcmp(mode, "publish_batch") == 0 ? publishing(publish_batch, count)
                : strcmp(mode, "read") == 0          ? reading(count)
                                                     : events(count);
    check(klatch_engine_stop(engine, 10000, NULL));
    klatch_engine_free(engine);
    printf("%.1f\n", ns);
    return 0;
}
