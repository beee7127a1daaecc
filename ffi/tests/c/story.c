#include <klatch.h>
#include <stdio.h>

/* Says what failed, and gives 0; or gives 1. */
static int ok(klatch_error_t *error) {
    if (error == NULL) return 1;
    fprintf(stderr, "%s: %s\n", klatch_error_name(error).ptr, klatch_error_message(error).ptr);
    klatch_error_free(error);
    return 0;
}

int main(void) {
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine;
    klatch_publications_t *page;
    if (!ok(klatch_builder_log(builder, klatch_str("memory"))) ||
        !ok(klatch_builder_listen(builder, klatch_str("127.0.0.1:0"))) ||
        !ok(klatch_builder_start(builder, &engine)))
        return 1;
    printf("chat at ws://%s/ws?room=lobby&user=ann\n", klatch_engine_address(engine, 0).ptr);

    if (!ok(klatch_engine_publish(engine, klatch_str("lobby"), klatch_str("host"), klatch_str(""),
                                  KLATCH_DATA_JSON, klatch_json("\"hello\""), 5000, NULL)) ||
        !ok(klatch_engine_history(engine, klatch_str("lobby"), 0, 0, 50, true, 0, &page)))
        return 1;
    for (size_t i = 0; i < klatch_publications_count(page); i++) {
        const klatch_publication_t *p = klatch_publications_at(page, i);
        printf("%s: %s\n", klatch_publication_user(p).ptr, (const char *)klatch_publication_data(p).ptr);
    }
    klatch_publications_free(page);

    if (!ok(klatch_engine_stop(engine, 10000, NULL))) return 1;
    klatch_engine_free(engine);
    return 0;
}
