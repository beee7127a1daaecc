/* What the test programs share: checks that end the program, and a WebSocket client of a few lines. */
#ifndef CHECK_H
#define CHECK_H

#include <klatch.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);           \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

/* The call succeeds. */
#define OK(call) check_ok((call), __FILE__, __LINE__, #call)
/* The call fails with this code. */
#define FAILS(call, code) check_fails((call), (code), __FILE__, __LINE__, #call)
/* A string literal. */
#define S(text) klatch_str(text)

/* Everything that is waited for comes within this, or the test has failed. Valgrind and sanitizers are slow. */
#define PATIENCE_MS 60000

static inline void check_ok(klatch_error_t *error, const char *file, int line, const char *call) {
    if (error == NULL) return;
    fprintf(stderr, "%s:%d: %s: %s: %s\n", file, line, call, klatch_error_name(error).ptr,
            klatch_error_message(error).ptr);
    abort();
}

static inline void check_fails(klatch_error_t *error, int32_t code, const char *file, int line, const char *call) {
    if (klatch_error_code(error) != code) {
        fprintf(stderr, "%s:%d: %s: expected %d, not %d %s: %s\n", file, line, call, (int)code,
                (int)klatch_error_code(error), klatch_error_name(error).ptr, klatch_error_message(error).ptr);
        abort();
    }
    klatch_error_free(error);
}

static inline int is(klatch_str_t text, const char *expected) {
    return text.len == strlen(expected) && memcmp(text.ptr, expected, text.len) == 0 && text.ptr[text.len] == 0;
}

static inline int data_is(klatch_bytes_t data, const char *expected) {
    return is(klatch_str_n((const char *)data.ptr, data.len), expected);
}

/* An engine in memory, with a listener. */
static inline klatch_engine_t *engine_in_memory(klatch_builder_t *builder) {
    klatch_engine_t *engine = NULL;
    if (builder == NULL) builder = klatch_builder_new();
    OK(klatch_builder_log(builder, S("memory")));
    OK(klatch_builder_listen(builder, S("127.0.0.1:0")));
    OK(klatch_builder_set(builder, S("shards"), S("1")));
    OK(klatch_builder_start(builder, &engine));
    CHECK(engine != NULL);
    return engine;
}

static inline void publish(klatch_engine_t *engine, const char *room, const char *json) {
    OK(klatch_engine_publish(engine, S(room), S("host"), S(""), KLATCH_DATA_JSON, klatch_json(json), PATIENCE_MS, NULL));
}

/* A client, which is let in, with everything that it has read and not looked at. */
typedef struct {
    int fd;
    char text[65536];
} client_t;

static inline void client_read(client_t *client, void *into, size_t len) {
    char *at = (char *)into;
    while (len > 0) {
        struct pollfd wait = {client->fd, POLLIN, 0};
        CHECK(poll(&wait, 1, PATIENCE_MS) == 1);
        ssize_t came = read(client->fd, at, len);
        CHECK(came > 0);
        at += came;
        len -= (size_t)came;
    }
}

static inline client_t *client_connect(klatch_engine_t *engine, const char *query) {
    client_t *client = (client_t *)calloc(1, sizeof *client);
    struct sockaddr_in address;
    char request[512];
    CHECK(client != NULL);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(klatch_engine_port(engine, 0));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(client->fd >= 0 && connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0);
    int len = snprintf(request, sizeof request,
                       "GET /ws?%s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Protocol: klatch.v1\r\n\r\n",
                       query);
    CHECK(write(client->fd, request, (size_t)len) == len);
    char end[4] = {0};
    char status[16] = {0};
    size_t n = 0;
    do {
        memmove(end, end + 1, 3);
        client_read(client, end + 3, 1);
        if (n < sizeof status - 1) status[n] = end[3];
        n++;
    } while (memcmp(end, "\r\n\r\n", 4) != 0);
    CHECK(strncmp(status, "HTTP/1.1 101", 12) == 0);
    return client;
}

/* The next text frame; the code of a close frame as "close 4000". Pings are passed over. */
static inline const char *client_next(client_t *client) {
    for (;;) {
        unsigned char head[2], more[8];
        client_read(client, head, 2);
        size_t len = head[1] & 127u;
        if (len >= 126) {
            size_t size = len == 126 ? 2 : 8;
            client_read(client, more, size);
            len = 0;
            for (size_t i = 0; i < size; i++) len = len << 8 | more[i];
        }
        CHECK(len < sizeof client->text);
        client_read(client, client->text, len);
        client->text[len] = 0;
        int opcode = head[0] & 15;
        if (opcode == 1) return client->text;
        if (opcode == 8) {
            unsigned code = (unsigned)(unsigned char)client->text[0] << 8 | (unsigned char)client->text[1];
            snprintf(client->text, sizeof client->text, "close %u", code);
            return client->text;
        }
    }
}

/* Reads frames until one has this in it. */
static inline const char *client_expect(client_t *client, const char *part) {
    for (;;) {
        const char *text = client_next(client);
        if (strstr(text, part) != NULL) return text;
        if (strncmp(text, "close", 5) == 0) {
            fprintf(stderr, "expected %s, got %s\n", part, text);
            abort();
        }
    }
}

static inline void client_send(client_t *client, const char *text) {
    unsigned char frame[4096];
    size_t len = strlen(text), at = 2;
    CHECK(len < 4000);
    frame[0] = 0x81;
    if (len < 126) {
        frame[1] = (unsigned char)(0x80 | len);
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = (unsigned char)(len >> 8);
        frame[3] = (unsigned char)len;
        at = 4;
    }
    memset(frame + at, 0, 4); /* A mask that changes nothing. */
    memcpy(frame + at + 4, text, len);
    CHECK(send(client->fd, frame, at + 4 + len, MSG_NOSIGNAL) == (ssize_t)(at + 4 + len));
}

static inline void client_close(client_t *client) {
    close(client->fd);
    free(client);
}

/* Something that one thread waits for and another does. */
typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned count;
} latch_t;

#define LATCH {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}

static inline void latch_add(latch_t *latch) {
    pthread_mutex_lock(&latch->mutex);
    latch->count++;
    pthread_cond_broadcast(&latch->changed);
    pthread_mutex_unlock(&latch->mutex);
}

/* It has been added to at least so often. */
static inline void latch_wait(latch_t *latch, unsigned count) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    pthread_mutex_lock(&latch->mutex);
    while (latch->count < count) CHECK(pthread_cond_timedwait(&latch->changed, &latch->mutex, &until) == 0);
    pthread_mutex_unlock(&latch->mutex);
}

static inline unsigned latch_count(latch_t *latch) {
    pthread_mutex_lock(&latch->mutex);
    unsigned count = latch->count;
    pthread_mutex_unlock(&latch->mutex);
    return count;
}

/* For free_user_data where user_data is a latch. */
static inline void latch_freed(void *user_data) {
    latch_add((latch_t *)user_data);
}

#endif
