/* A work consumer on a Kafka topic. What it handles it prints, a line each: the room, the number of the message in it.
 *
 *   consume URL FIRST LAST       publishes these numbers in each room, handles all there is up to the last, and ends in order
 *   consume URL FIRST LAST DIES  the same, but it ends without a word in the handler, when it has been called so often
 */
#include "check.h"

#define ROOMS 6
#define MOST 1000

static unsigned last, dies, calls;
static int failed[ROOMS];
static latch_t complete = LATCH, freed = LATCH;

/* Each room's third message fails once: it is handled again, before the next of its room. */
static int32_t handle(void *user_data, const klatch_publication_t *publication) {
    CHECK(user_data == &freed);
    unsigned room, number;
    CHECK(sscanf(klatch_publication_room(publication).ptr, "room-%u", &room) == 1 && room < ROOMS);
    CHECK(sscanf(klatch_publication_id(publication).ptr, "m%u", &number) == 1);
    if (dies != 0 && ++calls >= dies) _exit(3);
    if (number == 3 && !failed[room]) {
        failed[room] = 1;
        return 7;
    }
    printf("%u %u\n", room, number);
    fflush(stdout);
    if (number == last) latch_add(&complete);
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 4 || argc == 5);
    unsigned first = (unsigned)atoi(argv[2]);
    last = (unsigned)atoi(argv[3]);
    dies = argc == 5 ? (unsigned)atoi(argv[4]) : 0;
    CHECK(first <= last && last < MOST);

    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine = NULL;
    OK(klatch_builder_log(builder, S(argv[1])));
    OK(klatch_builder_set(builder, S("kafka.partitions"), S("4")));
    OK(klatch_builder_set(builder, S("kafka.view_dir"), S("memory")));
    OK(klatch_builder_start(builder, &engine));
    for (unsigned number = first; number <= last; number++) {
        for (unsigned room = 0; room < ROOMS; room++) {
            char name[32], id[32];
            snprintf(name, sizeof name, "room-%u", room);
            snprintf(id, sizeof id, "m%u", number);
            OK(klatch_engine_publish(engine, S(name), S("host"), S(id), KLATCH_DATA_JSON, klatch_json("1"), PATIENCE_MS, NULL));
        }
    }

    klatch_consume_t *consume = klatch_consume_new();
    klatch_consumer_t *consumer = NULL;
    OK(klatch_consume_group(consume, S("archive")));
    OK(klatch_consume_threads(consume, 1));
    OK(klatch_consume_retry(consume, 1, 10));
    /* The shortest that Kafka takes: so long the group waits for one that died. */
    OK(klatch_consume_property(consume, S("session.timeout.ms"), S("6000")));
    OK(klatch_engine_consume(engine, consume, handle, &freed, latch_freed, &consumer));
    klatch_consume_free(consume);
    latch_wait(&complete, ROOMS);

    /* All of it is done, and each error was one of the handler's. */
    klatch_consumer_status_t *status = NULL;
    for (int tries = 0;; tries++) {
        struct timespec pause = {0, 20 * 1000 * 1000};
        OK(klatch_consumer_status(consumer, &status));
        if (klatch_consumer_status_lag(status) == 0 && klatch_consumer_status_partitions(status) == 4) break;
        CHECK(tries < PATIENCE_MS / 20);
        klatch_consumer_status_free(status);
        nanosleep(&pause, NULL);
    }
    unsigned errors = 0;
    for (unsigned room = 0; room < ROOMS; room++) errors += (unsigned)failed[room];
    CHECK(klatch_consumer_status_retries(status) == errors && klatch_consumer_status_last_error(status).len == 0);
    CHECK(klatch_consumer_status_failed(status) == NULL && klatch_consumer_status_resets(status) == 0);
    klatch_consumer_status_free(status);

    bool committed = false;
    OK(klatch_consumer_stop(consumer, PATIENCE_MS, &committed));
    CHECK(committed);
    klatch_consumer_free(consumer);
    latch_wait(&freed, 1);
    OK(klatch_engine_stop(engine, PATIENCE_MS, NULL));
    klatch_engine_free(engine);
    puts("ok");
    return 0;
}
