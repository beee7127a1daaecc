#include <klatch.h>
#include <stdio.h>

int main(void) {
    klatch_builder_t *builder = klatch_builder_new();
    klatch_engine_t *engine = NULL;
    klatch_error_t *error = klatch_builder_log(builder, klatch_str("memory"));
    if (error == NULL) error = klatch_builder_start(builder, &engine);
    if (error == NULL)
        error = klatch_engine_publish(engine, klatch_str("lobby"), klatch_str("host"), klatch_str(""), KLATCH_DATA_JSON,
                                      klatch_json("\"hello\""), 10000, NULL);
    if (error == NULL) error = klatch_engine_stop(engine, 10000, NULL);
    klatch_engine_free(engine);
    if (error != NULL) return 1;
    printf("klatch %s\n", klatch_version().ptr);
    return 0;
}
