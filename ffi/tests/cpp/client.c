#include "client.h"
#include "../c/check.h"

struct client {
    client_t *of;
};

struct client *client_new(klatch_engine_t *engine, const char *query) {
    struct client *client = malloc(sizeof *client);
    CHECK(client != NULL);
    client->of = client_connect(engine, query);
    return client;
}

const char *client_awaits(struct client *client, const char *part) { return client_expect(client->of, part); }

void client_says(struct client *client, const char *text) { client_send(client->of, text); }

void client_free(struct client *client) {
    client_close(client->of);
    free(client);
}
