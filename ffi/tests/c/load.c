/* A host that loads the library late and for all to see, beside forty libraries with thread-local storage and, if it is there, an OpenSSL of its
 * own, and uses both. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <klatch.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            const char *why_ = dlerror();                                                     \
            fprintf(stderr, "%d: not so: %s: %s\n", __LINE__, #condition, why_ ? why_ : "");  \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    CHECK(found != NULL);
    return found;
}

/* ISO C has no conversion of a data pointer to a function. */
#define GET(type, name, library, symbol_name)                \
    __extension__ __typeof__(type) name;                     \
    do {                                                     \
        void *found_ = symbol(library, symbol_name);         \
        memcpy(&name, &found_, sizeof name);                 \
    } while (0)

static void *openssl(void *library) {
    GET(const void *(*)(void), method, library, "TLS_method");
    GET(void *(*)(const void *), new_context, library, "SSL_CTX_new");
    GET(void (*)(void *), free_context, library, "SSL_CTX_free");
    for (int i = 0; i < 200; i++) {
        void *context = new_context(method());
        CHECK(context != NULL);
        free_context(context);
    }
    return NULL;
}

int main(int argc, char **argv) {
    int neighbours = 0;
    for (int i = 2; i < argc; i++) {
        CHECK(dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL) != NULL);
        neighbours++;
    }
    void *ssl = dlopen("libssl.so.3", RTLD_NOW | RTLD_GLOBAL);
    void *klatch = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
    CHECK(klatch != NULL);
    if (ssl == NULL) (void)dlerror();

    GET(klatch_builder_t *(*)(void), builder_new, klatch, "klatch_builder_new");
    GET(klatch_error_t *(*)(klatch_builder_t *, klatch_str_t), builder_log, klatch, "klatch_builder_log");
    GET(klatch_error_t *(*)(klatch_builder_t *, klatch_str_t, klatch_str_t), builder_set, klatch, "klatch_builder_set");
    GET(klatch_error_t *(*)(klatch_builder_t *, klatch_engine_t **), builder_start, klatch, "klatch_builder_start");
    GET(int32_t (*)(const klatch_error_t *), error_code, klatch, "klatch_error_code");
    GET(void (*)(klatch_engine_t *), engine_free, klatch, "klatch_engine_free");

    /* One engine in memory, and one on a Kafka with TLS that is not there: its OpenSSL is at work, and must be its own. */
    pthread_t threads[2];
    for (int i = 0; i < 2 && ssl != NULL; i++) CHECK(pthread_create(&threads[i], NULL, openssl, ssl) == 0);
    klatch_engine_t *engine = NULL;
    klatch_builder_t *builder = builder_new();
    CHECK(builder_log(builder, klatch_str("memory")) == NULL);
    CHECK(builder_start(builder, &engine) == NULL && engine != NULL);
    builder = builder_new();
    klatch_engine_t *none = NULL;
    CHECK(builder_log(builder, klatch_str("kafka://127.0.0.1:1/chats")) == NULL);
    CHECK(builder_set(builder, klatch_str("kafka.start_timeout_ms"), klatch_str("200")) == NULL);
    CHECK(builder_set(builder, klatch_str("kafka.view_dir"), klatch_str("memory")) == NULL);
    CHECK(builder_set(builder, klatch_str("kafka.properties.security.protocol"), klatch_str("ssl")) == NULL);
    klatch_error_t *error = builder_start(builder, &none);
    CHECK(error != NULL ? none == NULL && error_code(error) > 0 : none != NULL);
    engine_free(none);
    engine_free(engine);
    for (int i = 0; i < 2 && ssl != NULL; i++) CHECK(pthread_join(threads[i], NULL) == 0);

    /* What is found by name is the host's. */
    if (ssl != NULL) {
        Dl_info where;
        CHECK(dladdr(symbol(RTLD_DEFAULT, "SSL_new"), &where) != 0 && strstr(where.dli_fname, "libssl") != NULL);
    }
    CHECK(dlsym(RTLD_DEFAULT, "rd_kafka_new") == NULL);
    dlclose(klatch);
    printf("%d neighbours, %s\n", neighbours, ssl != NULL ? "OpenSSL" : "no OpenSSL");
    return 0;
}
