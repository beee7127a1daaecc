/*
 * klatch.h: a chat engine in your program. Rooms, a WebSocket server, and a durable, ordered message log.
 *
 * Generated from the sources of the library; not to be edited. docs/guarantees.md says what may be relied on, docs/protocol.md how clients
 * talk to the engine, docs/configuration.md what can be set, docs/codes.md what the codes mean.
 *
 *
 * GETTING STARTED
 *
 * A whole program. It is built with `cc chat.c $(pkg-config --cflags --libs klatch)`.
 *
 *     #include <klatch.h>
 *     #include <stdio.h>
 *
 *     // Says what failed, and gives 0; or gives 1.
 *     static int ok(klatch_error_t *error) {
 *         if (error == NULL) return 1;
 *         fprintf(stderr, "%s: %s\n", klatch_error_name(error).ptr, klatch_error_message(error).ptr);
 *         klatch_error_free(error);
 *         return 0;
 *     }
 *
 *     int main(void) {
 *         klatch_builder_t *builder = klatch_builder_new();
 *         klatch_engine_t *engine;
 *         klatch_publications_t *page;
 *         if (!ok(klatch_builder_log(builder, klatch_str("memory"))) ||
 *             !ok(klatch_builder_listen(builder, klatch_str("127.0.0.1:0"))) ||
 *             !ok(klatch_builder_start(builder, &engine)))
 *             return 1;
 *         printf("chat at ws://%s/ws?room=lobby&user=ann\n", klatch_engine_address(engine, 0).ptr);
 *
 *         if (!ok(klatch_engine_publish(engine, klatch_str("lobby"), klatch_str("host"), klatch_str(""),
 *                                       KLATCH_DATA_JSON, klatch_json("\"hello\""), 5000, NULL)) ||
 *             !ok(klatch_engine_history(engine, klatch_str("lobby"), 0, 0, 50, true, 0, &page)))
 *             return 1;
 *         for (size_t i = 0; i < klatch_publications_count(page); i++) {
 *             const klatch_publication_t *p = klatch_publications_at(page, i);
 *             printf("%s: %s\n", klatch_publication_user(p).ptr, (const char *)klatch_publication_data(p).ptr);
 *         }
 *         klatch_publications_free(page);
 *
 *         if (!ok(klatch_engine_stop(engine, 10000, NULL))) return 1;
 *         klatch_engine_free(engine);
 *         return 0;
 *     }
 *
 * From there: hooks decide who may connect, join and publish (klatch_builder_on_connect() and its neighbours); events tell who came and
 * went (klatch_engine_next_event()); a subscription reads a room (klatch_engine_subscribe()).
 *
 *
 * OWNERSHIP
 *
 * Objects are opaque. Each function says of its pointers that it
 *   borrows   what stays the caller's, and is not used after the call has returned,
 *   takes     what is the library's from then on, also if the call fails, or
 *   gives     what is the caller's from then on, until it is freed with the function named. It is NULL if the call failed.
 * Pointers to what is inside an object live as long as that object. What a callback gets is borrowed until it returns. Every _free function
 * takes NULL. Objects that were made of an engine may be freed before or after it, in any order.
 *
 * Texts and data go in and out as klatch_str_t and klatch_bytes_t, a pointer and a length. Texts that come out have a NUL behind them, and
 * are never NULL. Times are in milliseconds, sizes in bytes.
 *
 *
 * ERRORS
 *
 * What can fail returns klatch_error_t *, NULL for success. Whoever ignores one is warned by the compiler, and leaks it. A pointer that must
 * not be NULL is bad_request if it is; a number out of range, a text that is not UTF-8, a length that no limit allows, a call in the wrong
 * order: each is an error, and no more. A handle of an engine, builder, batch, subscription, request or consumer that has been freed is
 * `stopped`, also if another thread frees it meanwhile. Using any other object after it was freed is not detected. A fault inside is
 * `internal`, and the engine lives on. What the library has to say for an operator goes to klatch_log_set(); it never prints.
 *
 *
 * THREADS
 *
 *   callback                           runs on                                  at once   may take time    may wait for the engine
 *   klatch_hook_fn                     one of four threads for hooks            4         yes              yes
 *   klatch_event_fn                    a thread that the engine's callbacks     1         yes, events      yes
 *   klatch_publications_fn               share                                              queue up
 *   klatch_published_fn                the thread that stores messages, or      1 each    no               no: would_deadlock
 *                                        the one that published
 *   klatch_handler_fn                  the consumer's own threads               as set    yes              yes
 *   klatch_log_fn                      a thread of its own                      1         yes              yes
 *
 * Every function may be called from any thread, at the same time, and in every callback, if it does not say otherwise. Builders, batches and
 * other objects that say so are for one thread at a time. Objects that were given (errors, acks, events, pages) may be read by several. Do
 * not hold a lock while you free something whose callback takes that lock. A callback must not throw, longjmp, or end its thread.
 *
 * A callback is registered as a function, user_data, which is its first argument, and free_user_data, which may be NULL. It is not called once
 * the call that ends it has returned (it may be while that runs), and free_user_data is called exactly once, after the last call, also if the
 * registration fails.
 *
 * The library starts threads at klatch_builder_start(), klatch_log_set() and where callbacks or consumers are registered, and none when it is
 * loaded. It sets no signal handler, no locale and no limit of the process, raises no SIGPIPE, and never prints. After fork() the child must
 * not use it.
 *
 *
 * SHUTDOWN
 *
 *   1. Stop what publishes: your own threads.
 *   2. klatch_engine_stop(engine, timeout_ms, NULL): stores what is queued, tells clients to come back, closes the files.
 *   3. Read what events are left, if you care, until `stopped`.
 *   4. klatch_engine_free(engine). From here on nothing of yours is called.
 *   5. klatch_log_set(KLATCH_LOG_ERROR, NULL, NULL, NULL), if you had set a log: the last lines are told, then its thread ends.
 * klatch_engine_free() alone does 2 too, with one second. A process that simply ends loses no message that was acknowledged.
 */

#ifndef KLATCH_H
#define KLATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The result must be looked at. */
#ifndef KLATCH_MUST_USE
#if defined(__GNUC__)
#define KLATCH_MUST_USE __attribute__((warn_unused_result))
#else
#define KLATCH_MUST_USE
#endif
#endif

/* Before every declaration, for builds that need something there. */
#ifndef KLATCH_API
#define KLATCH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif


/* Text and bytes ------------------------------------------------------------------------------------------------------
 *
 * Two plain views, the only structs whose fields are public; they never change. Text that goes in is UTF-8 and need not end with a NUL;
 * `klatch_str("...")` makes it of a C string. Text that comes out is UTF-8 with a NUL behind it that is not counted, and never NULL.
 */

/** Text that the library has made, such as a metrics page. Freed with klatch_text_free(). */
typedef struct klatch_text_t klatch_text_t;

/** Text: `len` bytes at `ptr`. `ptr` may be NULL only if `len` is 0. */
typedef struct {
  /** The first byte. */
  const char *ptr;
  /** How many bytes. */
  size_t len;
} klatch_str_t;

/** Bytes: `len` of them at `ptr`. `ptr` may be NULL only if `len` is 0. */
typedef struct {
  /** The first byte. */
  const uint8_t *ptr;
  /** How many. */
  size_t len;
} klatch_bytes_t;

/** The text of `text`, which may be NULL (then it is empty). It lives as long as `text`. */
KLATCH_API klatch_str_t klatch_text_str(const klatch_text_t *text);

/** Frees `text`, which may be NULL. */
KLATCH_API void klatch_text_free(klatch_text_t *text);

/** The text of a C string, which may be NULL (then it is empty). Borrows it. */
static inline klatch_str_t klatch_str(const char *text) {
    klatch_str_t view;
    view.ptr = text;
    view.len = text ? strlen(text) : 0;
    return view;
}

/** A text of so many bytes. Borrows it. */
static inline klatch_str_t klatch_str_n(const char *text, size_t len) {
    klatch_str_t view;
    view.ptr = text;
    view.len = len;
    return view;
}

/** So many bytes. Borrows them. */
static inline klatch_bytes_t klatch_bytes(const void *bytes, size_t len) {
    klatch_bytes_t view;
    view.ptr = (const uint8_t *)bytes;
    view.len = len;
    return view;
}

/** The data of a message whose JSON is a C string, which may be NULL (then it is empty, and refused). Borrows it. */
static inline klatch_bytes_t klatch_json(const char *json) {
    return klatch_bytes(json, json ? strlen(json) : 0);
}


/* Versions ------------------------------------------------------------------------------------------------------------
 *
 * The ABI has a number of its own, which is also that of the shared library's name (`libklatch.so.0`): it changes only where a program
 * must be compiled again. Functions are added, and never changed.
 */

/** The version of this header: major * 1000000 + minor * 1000 + patch. */
#define KLATCH_VERSION_NUMBER 1000

/** The ABI of this header. */
#define KLATCH_ABI_VERSION 0

/** The version of the library, as a number like KLATCH_VERSION_NUMBER. */
KLATCH_API uint32_t klatch_version_number(void);

/** The version of the library as text, "0.1.0". It lives for ever. */
KLATCH_API klatch_str_t klatch_version(void);

/** The ABI of the library. A program that loads it by itself compares it with KLATCH_ABI_VERSION. */
KLATCH_API uint32_t klatch_abi_version(void);


/* Errors --------------------------------------------------------------------------------------------------------------
 *
 * A function that can fail returns NULL for success, or an error that the caller frees with klatch_error_free(). What it was to give is
 * NULL or 0 then. The hundred of a code is its class, so that a program can act on codes that it does not know: klatch_error_retry().
 */

/** A queue is full. The message was not stored. */
#define KLATCH_ERROR_BUSY 100

/** This part of the engine cannot answer now, for instance because it has yet to read up to the position asked for. */
#define KLATCH_ERROR_UNAVAILABLE 101

/**
 * The disk is full, or the process may open no more files. The message was not stored; reads go on, and publishing recovers when there is room.
 */
#define KLATCH_ERROR_STORAGE_FULL 102

/** The connection sent faster than its limit. The message was not stored. */
#define KLATCH_ERROR_RATE_LIMITED 103

/** A hook of the host did not answer within hook_timeout_ms. The request was not carried out. */
#define KLATCH_ERROR_HOOK_TIMEOUT 104

/** The engine is stopping. The request was not carried out. */
#define KLATCH_ERROR_STOPPING 105

/** A publish waited longer than publish_timeout_ms before it was written. It was not stored. */
#define KLATCH_ERROR_TIMEOUT 106

/** The request is not valid JSON of the documented shape. */
#define KLATCH_ERROR_BAD_REQUEST 200

/** The request's type is not one that this version knows. */
#define KLATCH_ERROR_UNKNOWN_COMMAND 201

/** A room, user or event name is empty, too long, or has control characters. */
#define KLATCH_ERROR_INVALID_NAME 202

/** The data is not what a message may hold: a lone surrogate, or base64 that does not decode. */
#define KLATCH_ERROR_INVALID_DATA 203

/** The message is larger than message_bytes. */
#define KLATCH_ERROR_TOO_LARGE 204

/** The data is nested deeper than json_depth. */
#define KLATCH_ERROR_TOO_DEEP 205

/** This message id was already used by this user in this room for another body. */
#define KLATCH_ERROR_CONFLICT 206

/** The connection is not a member of the room. */
#define KLATCH_ERROR_NOT_JOINED 207

/** The connection is a member of the room already. */
#define KLATCH_ERROR_ALREADY_JOINED 208

/** The connection is in rooms_per_connection rooms already. */
#define KLATCH_ERROR_TOO_MANY_ROOMS 209

/** The request names no room and the connection has no default room. */
#define KLATCH_ERROR_NO_ROOM 210

/** A message id is empty, too long, has control characters, or begins with ~, which is kept for ids made by the engine. */
#define KLATCH_ERROR_INVALID_ID 211

/** This engine, as it is configured, cannot do that. */
#define KLATCH_ERROR_UNSUPPORTED 212

/** This stream has come to its end, and says why. What comes after it is read from another one. */
#define KLATCH_ERROR_ENDED 213

/** The message may have been stored: retry with the same id and the answer will be the same for both. */
#define KLATCH_ERROR_OUTCOME_UNKNOWN 300

/** The connection's credentials were refused. */
#define KLATCH_ERROR_UNAUTHORIZED 400

/** The host's hook refused this request. */
#define KLATCH_ERROR_DENIED 401

/** A sync or write of the log failed. Nothing more is stored until the engine is started again; reads go on. */
#define KLATCH_ERROR_STORAGE_FAILED 500

/** The log has damage that nobody has accepted yet. Nothing is stored; what is sound can be read. */
#define KLATCH_ERROR_LOG_DAMAGED 501

/** A fault in klatch itself, or a panic in a hook. */
#define KLATCH_ERROR_INTERNAL 502

/** Another engine has this data directory open. */
#define KLATCH_ERROR_DATA_DIR_LOCKED 503

/** The engine has been stopped. */
#define KLATCH_ERROR_STOPPED 504

/**
 * The call would wait for the very thread that it is made on: a waker of the host, which the engine has woken. It does not wait;
 * make the call from another thread. A publish whose answer was to be waited for goes its way without.
 */
#define KLATCH_ERROR_WOULD_DEADLOCK 505

/** A setting is wrong. */
#define KLATCH_ERROR_INVALID_CONFIG 510

/** The listen address cannot be bound, for instance because the port is in use. */
#define KLATCH_ERROR_ADDRESS_UNUSABLE 511

/** The data directory cannot be created, read or written. */
#define KLATCH_ERROR_DATA_DIR_UNUSABLE 512

/** Nothing was stored; the same call may succeed later, see klatch_error_retry_after_ms(). Codes 1xx. */
#define KLATCH_RETRY_LATER 1

/** The call itself is wrong; unchanged it fails again. Codes 2xx. */
#define KLATCH_RETRY_NEVER 2

/** It is not known whether the message was stored: publish it again with the same id. Codes 3xx. */
#define KLATCH_RETRY_SAME_ID 3

/** Not allowed; other credentials or rights are needed. Codes 4xx. */
#define KLATCH_RETRY_FORBIDDEN 4

/** The engine needs its operator. Codes 5xx. */
#define KLATCH_RETRY_OPERATOR 5

/** Why a call failed. Freed with klatch_error_free(). */
typedef struct klatch_error_t klatch_error_t;

/** The code, one of KLATCH_ERROR_*, or one that is newer than this header. 0 if `error` is NULL. */
KLATCH_API int32_t klatch_error_code(const klatch_error_t *error);

/** The code's name, such as "storage_full". It lives as long as `error`; empty if that is NULL. */
KLATCH_API klatch_str_t klatch_error_name(const klatch_error_t *error);

/** A text for people. It never holds message data, tokens or other users' names. It lives as long as `error`; empty if that is NULL. */
KLATCH_API
klatch_str_t klatch_error_message(const klatch_error_t *error);

/** What to do, one of KLATCH_RETRY_*. 0 if `error` is NULL. */
KLATCH_API int32_t klatch_error_retry(const klatch_error_t *error);

/** When a retry may succeed, in milliseconds. 0 where retrying does not help by itself, and if `error` is NULL. */
KLATCH_API uint32_t klatch_error_retry_after_ms(const klatch_error_t *error);

/** Frees `error`, which may be NULL. */
KLATCH_API void klatch_error_free(klatch_error_t *error);


/* Callbacks -----------------------------------------------------------------------------------------------------------
 *
 * Each is registered as three things: a function, user_data, which is its first argument, and how that is freed.
 */

/** Frees what the host keeps for a callback. Called exactly once, after the last call of that; also if the registration fails. */
typedef void (*klatch_free_fn)(void *user_data);


/* Engines -------------------------------------------------------------------------------------------------------------
 *
 * An engine may be used by several threads at once. klatch_engine_stop() drains it; klatch_engine_free() releases the handle. What belongs
 * to an engine (subscriptions, consumers, pages) may be freed before or after it.
 */

/** Publishes are stored. */
#define KLATCH_HEALTH_UP 0

/** The disk is full; publishes are refused until there is room. */
#define KLATCH_HEALTH_STORAGE_FULL 1

/** A sync failed; nothing more is stored until the engine is started again. */
#define KLATCH_HEALTH_STORAGE_FAILED 2

/** The log has damage that nobody has accepted. */
#define KLATCH_HEALTH_LOG_DAMAGED 3

/** Stopped. */
#define KLATCH_HEALTH_STOPPED 4

/** Part of the Kafka cluster is away: publishes to some rooms are not stored until it is back, those to others are. */
#define KLATCH_HEALTH_DEGRADED 5

/** The Kafka cluster does not answer; publishes are refused until it does. */
#define KLATCH_HEALTH_DOWN 6

/** The handle is NULL or has been freed, or the health is newer than this library. */
#define KLATCH_HEALTH_UNKNOWN (-1)

/** A running engine. Freed with klatch_engine_free(). */
typedef struct klatch_engine_t klatch_engine_t;

/** How many addresses the engine listens on. 0 if the handle is NULL or has been freed. */
KLATCH_API size_t klatch_engine_address_count(const klatch_engine_t *engine);

/**
 * The `index`th address, as "127.0.0.1:8080", with the port that was picked. It lives as long as the engine's handle; empty if there is
 * none.
 */
KLATCH_API
klatch_str_t klatch_engine_address(const klatch_engine_t *engine,
                                   size_t index);

/** The port of the `index`th address. 0 if there is none. */
KLATCH_API uint16_t klatch_engine_port(const klatch_engine_t *engine, size_t index);

/** Whether publishes are stored, one of KLATCH_HEALTH_*. */
KLATCH_API int32_t klatch_engine_health(const klatch_engine_t *engine);

/**
 * The engine's numbers in the Prometheus text format, version 0.0.4.
 *
 * Gives the text; it is freed with klatch_text_free(). Works after a stop too. Errors: stopped, if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_metrics(const klatch_engine_t *engine,
                                      klatch_text_t **out_text);

/**
 * Stops: no more connections and publishes are taken, what is queued is stored and answered, clients are told to come back, files are
 * synced and closed, so that another engine may have the directory. Waits at most about `timeout_ms`. Later calls return at once.
 *
 * `out_unwritten` may be NULL; else it gets how many publishes were not written in time, each of which has been answered. Events that are
 * queued can still be read. Works in every callback but those that tell of a publish, and the log's: there, would_deadlock. Any other error
 * says that the last sync failed: what had been acknowledged before is safe.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_stop(klatch_engine_t *engine,
                                   uint64_t timeout_ms,
                                   uint64_t *out_unwritten);

/**
 * Stops the engine as with a timeout of one second, unless it has been stopped, and releases the handle; `engine` may be NULL.
 *
 * No callback of this engine is called once this has returned, except those that tell of publishes that were still under way, and each
 * user_data has been freed. It waits for callbacks that run, at most 4 s, but not for the one that it is called in. In one that tells of
 * a publish, it stops the engine in the background. Other threads that wait for this engine are told `stopped`.
 */
KLATCH_API
void klatch_engine_free(klatch_engine_t *engine);


/* Settings and start --------------------------------------------------------------------------------------------------
 *
 * A builder gathers settings and hooks, and starts one engine. The settings are those of docs/configuration.md, with the same keys as
 * in a file: `klatch_builder_set(builder, klatch_str("limits.publish_rate"), klatch_str("20"))`. What is not set has its default.
 */

/** An engine that is to be started. Freed by klatch_builder_start() or klatch_builder_free(). For one thread at a time. */
typedef struct klatch_builder_t klatch_builder_t;

/** Begins to configure an engine. Gives a builder; never NULL. */
KLATCH_API klatch_builder_t *klatch_builder_new(void);

/**
 * Where messages are kept: a directory, "memory", or a Kafka topic, "kafka://host:port/topic". Default "klatch-data".
 *
 * Borrows `log`.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_builder_log(klatch_builder_t *builder, klatch_str_t log);

/**
 * Adds an address to listen on, "host:port" or "[ipv6]:port"; port 0 picks a free one. Without one there is no listener.
 *
 * Borrows `address`. Whether it can be used is seen at the start.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_listen(klatch_builder_t *builder,
                                      klatch_str_t address);

/**
 * The HTML page at "/". Default: none.
 *
 * Borrows `html`.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_builder_page(klatch_builder_t *builder, klatch_str_t html);

/**
 * Sets one key, "limits.publish_rate" for instance, from text: digits (times are in milliseconds where the key ends in _ms, sizes in bytes
 * where it ends in _bytes), "true" or "false", text as it is, or a list with commas between its items. A key that begins with
 * "kafka.properties." is librdkafka's.
 *
 * Borrows `key` and `value`. Errors: invalid_config for a key that is not there or a value of another kind; the error never repeats the
 * value.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_set(klatch_builder_t *builder,
                                   klatch_str_t key,
                                   klatch_str_t value);

/**
 * Replaces all settings by those of a TOML file's text.
 *
 * Borrows `toml`. Errors: invalid_config, with the line.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_builder_toml(klatch_builder_t *builder, klatch_str_t toml);

/**
 * Replaces all settings by those of a JSON object with the same keys.
 *
 * Borrows `json`. Errors: invalid_config.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_builder_json(klatch_builder_t *builder, klatch_str_t json);

/**
 * Opens the log, binds the addresses, starts the engine's threads, and waits for all of that.
 *
 * Takes `builder`, also if it fails. Gives the engine; it is freed with klatch_engine_free(). Errors: invalid_config, data_dir_locked,
 * data_dir_unusable, address_unusable; internal where the system refuses a thread or a descriptor; would_deadlock where it must not wait.
 * What had begun has ended when an error is returned. A log with damage that nobody has accepted starts: it can be read, publishes fail
 * with log_damaged.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_start(klatch_builder_t *builder,
                                     klatch_engine_t **out_engine);

/** Frees a builder that is not to be started. It may be NULL. */
KLATCH_API void klatch_builder_free(klatch_builder_t *builder);


/* Hooks ---------------------------------------------------------------------------------------------------------------
 *
 * What the host decides.
 *
 * A hook is called with a request, which tells who asks for what, and takes the answer: klatch_request_allow(),
 * klatch_request_deny() and so on, once. It may answer before it returns, or later and from any thread: then it says so with
 * klatch_request_keep(), and whoever has the request frees it. Past the setting limits.hook_timeout_ms a request that was not answered
 * fails with hook_timeout; one that is given up without an answer fails as internal. Hooks run on four threads of the engine that do
 * nothing else, up to four calls at once; they may block, and may call everything.
 */

/** A connection asks to be let in: connection, user (which it claims to be), token, address. Allowing it names its user. */
#define KLATCH_REQUEST_CONNECT 1

/** A connection asks to join a room: connection, user, room. */
#define KLATCH_REQUEST_JOIN 2

/** A client publishes: connection, user, room, id, kind, data. */
#define KLATCH_REQUEST_PUBLISH 3

/** What a hook is asked, and the way to answer. It ends when the hook returns, unless klatch_request_keep() was called. */
typedef struct klatch_request_t klatch_request_t;

/** Is asked to decide. `request` is borrowed until it returns; klatch_request_keep() makes it the callee's. */
typedef void (*klatch_hook_fn)(void *user_data, klatch_request_t *request);

/**
 * Who may connect. Without it everybody may, under any user name if the setting open_users is true. NULL takes the hook away.
 *
 * Takes `user_data`. Errors: stopped, if the builder was started or freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_on_connect(klatch_builder_t *builder,
                                          klatch_hook_fn hook,
                                          void *user_data,
                                          klatch_free_fn free_user_data);

/**
 * Who may join which room. Without it every connection may join every room. It needs a connect hook too, or the start fails.
 *
 * Takes `user_data`. Errors: stopped, if the builder was started or freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_on_join(klatch_builder_t *builder,
                                       klatch_hook_fn hook,
                                       void *user_data,
                                       klatch_free_fn free_user_data);

/**
 * What clients may publish: a word filter for instance. What the host itself publishes does not pass through it.
 *
 * Takes `user_data`. Errors: stopped, if the builder was started or freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_builder_on_publish(klatch_builder_t *builder,
                                          klatch_hook_fn hook,
                                          void *user_data,
                                          klatch_free_fn free_user_data);

/** What is asked for, one of KLATCH_REQUEST_*. 0 if the handle is NULL or has ended. */
KLATCH_API int32_t klatch_request_what(const klatch_request_t *request);

/** The connection's id. It lives as long as `request`, as do the other texts; empty if that is NULL or has ended. */
KLATCH_API klatch_str_t klatch_request_connection(const klatch_request_t *request);

/** The user: of a connect the one that the client claims to be, else the one that the connection is. Empty if none. */
KLATCH_API klatch_str_t klatch_request_user(const klatch_request_t *request);

/** Of a connect: the client's token; empty if none. */
KLATCH_API klatch_str_t klatch_request_token(const klatch_request_t *request);

/** Of a connect: the client's address, "127.0.0.1:50312". */
KLATCH_API klatch_str_t klatch_request_address(const klatch_request_t *request);

/** Of a join and a publish: the room. */
KLATCH_API klatch_str_t klatch_request_room(const klatch_request_t *request);

/** Of a publish: the message id as the client gave it; empty if it gave none. */
KLATCH_API klatch_str_t klatch_request_id(const klatch_request_t *request);

/** Of a publish: what the data is, one of KLATCH_DATA_*. */
KLATCH_API int32_t klatch_request_kind(const klatch_request_t *request);

/** Of a publish: the data, with a NUL behind it. */
KLATCH_API klatch_bytes_t klatch_request_data(const klatch_request_t *request);

/**
 * Allows it: a connect as the user that the client claims to be, a publish as it is.
 *
 * Errors: bad_request if it was answered already; stopped if it has ended.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_request_allow(klatch_request_t *request);

/**
 * Lets a connection in as `user` (empty: anonymous).
 *
 * Borrows `user`. Errors: bad_request if it was answered already, or asks for something else; stopped if it has ended.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_request_allow_as(klatch_request_t *request, klatch_str_t user);

/**
 * Stores this JSON text in place of what the client published. It must be one JSON value, or the publish fails as internal. A retry with
 * the same id must be given the same text, or it is a conflict.
 *
 * Borrows `json`. Errors: bad_request if it was answered already, or asks for something else; invalid_data; stopped if it has ended.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_request_replace_json(klatch_request_t *request,
                                            klatch_str_t json);

/**
 * Stores these bytes in place of what the client published.
 *
 * Borrows `data`. Errors: bad_request if it was answered already, or asks for something else; stopped if it has ended.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_request_replace_bytes(klatch_request_t *request, klatch_bytes_t data);

/**
 * Refuses it. `message` goes to the client.
 *
 * Borrows `message`. Errors: bad_request if it was answered already; stopped if it has ended.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_request_deny(klatch_request_t *request, klatch_str_t message);

/**
 * Has the request outlive the hook that was called with it: from now on it is the caller's, who frees it with klatch_request_free() once it
 * is answered or given up. Its texts live as long.
 *
 * Errors: stopped if it has ended.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_request_keep(klatch_request_t *request);

/** Frees a request that was kept; it may be NULL. Without an answer it is given up: the client is told internal. */
KLATCH_API void klatch_request_free(klatch_request_t *request);


/* Publishing ----------------------------------------------------------------------------------------------------------
 *
 * A publish has three outcomes. Stored: an ack, with the message's position. Certainly not stored: an error of any class but one. Unknown:
 * an error whose class is KLATCH_RETRY_SAME_ID; publish again with the same id, and the message is stored once, whatever became of the
 * first. So give every message that matters an id, at most 64 bytes long and random. Messages that one thread publishes to one room are
 * stored in that order. No rate limit and no hook holds for the host.
 */

/** The data is one JSON value, as UTF-8 text; stored byte for byte. */
#define KLATCH_DATA_JSON 0

/** The data is bytes that klatch does not look into. */
#define KLATCH_DATA_BINARY 1

/** That a message is stored, and where. Freed with klatch_ack_free(), unless a callback was lent it. */
typedef struct klatch_ack_t klatch_ack_t;

/**
 * Is told the outcome of a publish, once: `ack` if the message is stored, else `error`; the other is NULL. Both are borrowed until it
 * returns.
 *
 * It runs on the engine's thread that stores everybody's messages, or, before klatch_engine_publish_then() returns, on the one that called
 * that. It must return soon and must not wait: what would wait returns would_deadlock in it. It may publish.
 */
typedef void (*klatch_published_fn)(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error);

/** The offset of the message in its room. 0 if `ack` is NULL. */
KLATCH_API uint64_t klatch_ack_offset(const klatch_ack_t *ack);

/**
 * The epoch of the room's stream: 16 hexadecimal digits, to be compared and given back, nothing else. It lives as long as `ack`; empty if
 * that is NULL.
 */
KLATCH_API
klatch_str_t klatch_ack_epoch(const klatch_ack_t *ack);

/** The message's id, which the engine has made if none was given. It lives as long as `ack`; empty if that is NULL. */
KLATCH_API klatch_str_t klatch_ack_id(const klatch_ack_t *ack);

/** Whether a publish with this id had been accepted before: the position is that one's. */
KLATCH_API bool klatch_ack_duplicate(const klatch_ack_t *ack);

/** Frees `ack`, which may be NULL. */
KLATCH_API void klatch_ack_free(klatch_ack_t *ack);

/**
 * Stores and delivers a message, and waits for the outcome, at most `timeout_ms`. Past that it is outcome_unknown.
 *
 * Borrows `room`, `user` (empty: anonymous), `id` (empty: made by the engine, and the publish cannot be repeated safely) and `data`, whose
 * kind is one of KLATCH_DATA_*. Gives the ack, if `out_ack` is not NULL. Errors: busy, storage_full, timeout, stopping and other codes 1xx;
 * invalid_name, invalid_id, invalid_data, too_large, too_deep, conflict; outcome_unknown; storage_failed, log_damaged, stopped;
 * would_deadlock in callbacks that tell of a publish.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_publish(klatch_engine_t *engine,
                                      klatch_str_t room,
                                      klatch_str_t user,
                                      klatch_str_t id,
                                      int32_t kind,
                                      klatch_bytes_t data,
                                      uint64_t timeout_ms,
                                      klatch_ack_t **out_ack);

/**
 * Stores and delivers a message without waiting; `published` is told the outcome. It may be NULL: nobody is told.
 *
 * Borrows the same as klatch_engine_publish(), and takes `user_data`. If this returns an error, the message was certainly not stored, and
 * `published` is not called. The outcome comes within the setting limits.publish_timeout_ms, or a little more; at the latest when the engine
 * has stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_publish_then(klatch_engine_t *engine,
                                           klatch_str_t room,
                                           klatch_str_t user,
                                           klatch_str_t id,
                                           int32_t kind,
                                           klatch_bytes_t data,
                                           klatch_published_fn published,
                                           void *user_data,
                                           klatch_free_fn free_user_data);


/* Several messages at once --------------------------------------------------------------------------------------------
 *
 * Cheaper than one by one: gather them in a batch, publish that, and read what became of each.
 */

/** Messages that are to be published together. Freed with klatch_batch_free(). For one thread at a time. */
typedef struct klatch_batch_t klatch_batch_t;

/** What became of the messages of a batch. Freed with klatch_outcomes_free(). */
typedef struct klatch_outcomes_t klatch_outcomes_t;

/** An empty batch. Never NULL. */
KLATCH_API klatch_batch_t *klatch_batch_new(void);

/**
 * Adds a message; the parameters are those of klatch_engine_publish(). A batch has at most 65,536.
 *
 * Borrows everything. Errors: bad_request, invalid_name, invalid_data, too_large for what no engine would take; busy if the batch is full.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_batch_add(klatch_batch_t *batch,
                                 klatch_str_t room,
                                 klatch_str_t user,
                                 klatch_str_t id,
                                 int32_t kind,
                                 klatch_bytes_t data);

/**
 * Publishes the messages of a batch in their order, which empties it, and waits for all outcomes, at most `timeout_ms` together.
 *
 * Gives the outcomes, in the same order; they are freed with klatch_outcomes_free(). Errors: those of the call itself, such as
 * would_deadlock in callbacks that tell of a publish; then nothing was published. What became of each message is in the outcomes.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_publish_batch(klatch_engine_t *engine,
                                            klatch_batch_t *batch,
                                            uint64_t timeout_ms,
                                            klatch_outcomes_t **out_outcomes);

/** Frees a batch, which may be NULL. */
KLATCH_API void klatch_batch_free(klatch_batch_t *batch);

/** How many outcomes there are. 0 if `outcomes` is NULL. */
KLATCH_API size_t klatch_outcomes_count(const klatch_outcomes_t *outcomes);

/** The ack of the `index`th message. It lives as long as `outcomes`; NULL if the message was not stored, or there is none. */
KLATCH_API
const klatch_ack_t *klatch_outcomes_ack(const klatch_outcomes_t *outcomes,
                                        size_t index);

/**
 * The error of the `index`th message. It lives as long as `outcomes`, and is not to be freed; NULL if the message was stored, or there is
 * none.
 */
KLATCH_API
const klatch_error_t *klatch_outcomes_error(const klatch_outcomes_t *outcomes,
                                            size_t index);

/** Frees outcomes, which may be NULL. */
KLATCH_API void klatch_outcomes_free(klatch_outcomes_t *outcomes);


/* Publications --------------------------------------------------------------------------------------------------------
 *
 * Messages as they are delivered.
 *
 * They come in batches, from history, a subscription or a consumer. Everything of a publication lives as long as its batch.
 */

/** A message as it is delivered. It belongs to a batch. */
typedef struct klatch_publication_t klatch_publication_t;

/** Publications of a room, in order. Freed with klatch_publications_free(), unless a callback was lent them. */
typedef struct klatch_publications_t klatch_publications_t;

/** How many publications there are. 0 if `publications` is NULL. */
KLATCH_API size_t klatch_publications_count(const klatch_publications_t *publications);

/** The `index`th publication. It lives as long as `publications`; NULL if there is none. */
KLATCH_API const klatch_publication_t *klatch_publications_at(const klatch_publications_t *publications, size_t index);

/** The epoch of the room's stream. Offsets of another epoch mean nothing. It lives as long as `publications`; empty if that is NULL. */
KLATCH_API
klatch_str_t klatch_publications_epoch(const klatch_publications_t *publications);

/** Of a page of history: whether the range that was asked for holds more, in the direction read. */
KLATCH_API bool klatch_publications_more(const klatch_publications_t *publications);

/** Of a page of history: the room's last offset. 0 of an empty room. */
KLATCH_API uint64_t klatch_publications_last(const klatch_publications_t *publications);

/** A copy of its own, for what a callback wants to keep. Gives it; NULL if `publications` is NULL. */
KLATCH_API klatch_publications_t *klatch_publications_clone(const klatch_publications_t *publications);

/** Frees publications, which may be NULL. */
KLATCH_API void klatch_publications_free(klatch_publications_t *publications);

/** The room. Empty if `publication` is NULL. */
KLATCH_API klatch_str_t klatch_publication_room(const klatch_publication_t *publication);

/** The sender; empty for an anonymous one. */
KLATCH_API klatch_str_t klatch_publication_user(const klatch_publication_t *publication);

/** The message's id. One that begins with ~ was made by the engine. */
KLATCH_API klatch_str_t klatch_publication_id(const klatch_publication_t *publication);

/** What the data is, one of KLATCH_DATA_*. */
KLATCH_API int32_t klatch_publication_kind(const klatch_publication_t *publication);

/** The data: JSON text, or bytes. Here too a NUL is behind it. */
KLATCH_API klatch_bytes_t klatch_publication_data(const klatch_publication_t *publication);

/** The offset. Offsets increase within a room and may skip. */
KLATCH_API uint64_t klatch_publication_offset(const klatch_publication_t *publication);

/** The offset of the publication before it in its room, or 0. Whoever last saw another one has a gap. */
KLATCH_API uint64_t klatch_publication_prev(const klatch_publication_t *publication);

/** The log's time of it, in milliseconds since 1970 UTC. */
KLATCH_API uint64_t klatch_publication_time(const klatch_publication_t *publication);


/* History -------------------------------------------------------------------------------------------------------------
 *
 * A page of it at a time. Go on after the offset of the last publication while klatch_publications_more() says so.
 */

/**
 * Reads a page of a room's history: publications with offsets above `after` and below `before` (0: no bound), the oldest of them first, or
 * with `backward` the newest first; at most `limit`, and at most the setting limits.history_page. A view that has not reached `at_least`
 * (0: whatever it has reached) answers unavailable.
 *
 * Borrows `room`. Gives the page; it is freed with klatch_publications_free(). May read the disk on this thread. Errors: invalid_name,
 * unavailable, stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_history(klatch_engine_t *engine,
                                      klatch_str_t room,
                                      uint64_t after,
                                      uint64_t before,
                                      uint32_t limit,
                                      bool backward,
                                      uint64_t at_least,
                                      klatch_publications_t **out_page);


/* Subscriptions -------------------------------------------------------------------------------------------------------
 *
 * A room's publications for the host: history first, then live, without gap or double. Or those of all rooms, live.
 *
 * Three ways to read one, of which a subscription has one at a time: klatch_subscription_next() waits;
 * klatch_subscription_fd() is for a loop of the host's own; klatch_subscription_on_publications() has a callback called. The queue is
 * bounded (the settings limits.event_queue and limits.subscription_bytes): a subscription that is not read ends as slow, and is opened
 * again where it ended.
 */

/** It has not ended. */
#define KLATCH_ENDED_NOT 0

/** It was freed, or its reading was. */
#define KLATCH_ENDED_CLOSED 1

/** It was not read: its queue passed its bound. Subscribe again since the last position. */
#define KLATCH_ENDED_SLOW 2

/** Retention has dropped what it had yet to read. Subscribe again; the newest history comes instead. */
#define KLATCH_ENDED_DROPPED 3

/** The history that it had yet to read cannot be read; the log tells why. Subscribe again since the last position to try again. */
#define KLATCH_ENDED_UNREADABLE 4

/** The log was replaced by another one. Positions of the old one mean nothing; subscribe again. */
#define KLATCH_ENDED_RESET 5

/** The engine stopped. */
#define KLATCH_ENDED_STOPPED 6

/** A room, or all of them, that the host listens to. Freed with klatch_subscription_free(). */
typedef struct klatch_subscription_t klatch_subscription_t;

/**
 * Is lent publications in order, or, with `ended` other than KLATCH_ENDED_NOT and without publications, told that no more come.
 *
 * It runs on a thread of the library that the callbacks of one engine share, so it is never called twice at once. It may take its time, in
 * which the queue fills, and may call everything. `publications` is borrowed until it returns: klatch_publications_clone() keeps it.
 */
typedef void (*klatch_publications_fn)(void *user_data, const klatch_publications_t *publications, int32_t ended);

/**
 * Listens to a room: the newest `history` publications (0: none), then everything that comes.
 *
 * Borrows `room`. Gives the subscription; it is freed with klatch_subscription_free(). May read the disk on this thread. Errors:
 * invalid_name, unavailable, stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_subscribe(klatch_engine_t *engine,
                                        klatch_str_t room,
                                        uint32_t history,
                                        klatch_subscription_t **out_subscription);

/**
 * Listens to a room from a position on: everything after `offset`, if `epoch` (empty: any) still holds and nothing after it is gone; else
 * the newest `history` publications, and klatch_subscription_recovered() is false.
 *
 * Borrows `room` and `epoch`, which is one that the library gave. Gives the subscription. Errors: as klatch_engine_subscribe(); bad_request
 * for what is no epoch.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_subscribe_since(klatch_engine_t *engine,
                                              klatch_str_t room,
                                              klatch_str_t epoch,
                                              uint64_t offset,
                                              uint32_t history,
                                              klatch_subscription_t **out_subscription);

/**
 * Listens to every room: everything that this node delivers from now on, in the order of each room; klatch_publication_room() tells which.
 * There is no history and no position to go on from: one that ends because it was not read has a gap, and its offset and epoch mean
 * nothing. Where each publication must be dealt with once, on whichever node, there is klatch_engine_consume().
 *
 * Gives the subscription; it is freed with klatch_subscription_free(). Errors: stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_subscribe_all(klatch_engine_t *engine,
                                            klatch_subscription_t **out_subscription);

/**
 * The next publications in order, at most `max` (0: 1). Waits for the first, at most `timeout_ms`.
 *
 * Gives them; they are freed with klatch_publications_free(). NULL without an error: none came in time. Errors: ended, once everything has
 * been read and klatch_subscription_ended() says why; busy while another thread or a callback reads; stopped, if the handle has been freed,
 * or is freed meanwhile; would_deadlock for a timeout other than 0 in callbacks that tell of a publish.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_subscription_next(klatch_subscription_t *subscription,
                                         size_t max,
                                         uint64_t timeout_ms,
                                         klatch_publications_t **out_publications);

/**
 * A descriptor that is readable (POLLIN, EPOLLIN) while klatch_subscription_next() may have something, or the end, to give. Wait for it
 * level-triggered, then call that with a timeout of 0 until it gives NULL: only that makes it unreadable. Never read, write or close the
 * descriptor itself; it is closed with the subscription's handle.
 *
 * Errors: internal, where the system refuses a descriptor.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_subscription_fd(klatch_subscription_t *subscription,
                                       int32_t *out_fd);

/**
 * Has `publications` called with everything that comes, until the subscription ends or is freed.
 *
 * Takes `user_data`. Errors: busy if a callback, or another thread, reads it already; bad_request if `publications` is NULL.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_subscription_on_publications(klatch_subscription_t *subscription,
                                                    klatch_publications_fn publications,
                                                    void *user_data,
                                                    klatch_free_fn free_user_data);

/** Whether the position that the subscription began with could be resumed from. */
KLATCH_API bool klatch_subscription_recovered(const klatch_subscription_t *subscription);

/** The offset of the last publication that was read, or lent to the callback: subscribe since here to go on. */
KLATCH_API uint64_t klatch_subscription_offset(const klatch_subscription_t *subscription);

/** The epoch of that offset. It lives as long as the handle; empty if that is NULL or has been freed. */
KLATCH_API klatch_str_t klatch_subscription_epoch(const klatch_subscription_t *subscription);

/**
 * Why it has ended, one of KLATCH_ENDED_*, once klatch_subscription_next() or the callback has been told. KLATCH_ENDED_CLOSED if the handle
 * is NULL or has been freed.
 */
KLATCH_API
int32_t klatch_subscription_ended(const klatch_subscription_t *subscription);

/**
 * Ends the subscription and releases the handle, which may be NULL. Its callback is not called once this has returned, unless this is called
 * in it; a thread that waits in klatch_subscription_next() is told that it has ended.
 */
KLATCH_API
void klatch_subscription_free(klatch_subscription_t *subscription);


/* Events --------------------------------------------------------------------------------------------------------------
 *
 * Who came, who went, and how the storage is.
 *
 * Three ways to read them: klatch_engine_next_event() waits; klatch_engine_event_fd() is for a loop of the host's own;
 * klatch_engine_on_event() has a callback called. Nothing is queued before the first of these; call klatch_engine_next_event() with a
 * timeout of 0 right after the start to miss nothing. There is one queue, and each event is given once. It is bounded (the setting
 * limits.event_queue): what does not fit is counted, and an event of KLATCH_EVENT_LOST says how many are missing there.
 */

/** A connection was let in: connection, user, address. */
#define KLATCH_EVENT_CONNECTED 1

/** A connection that had been let in has ended: connection, user; code and reason if the engine closed it. */
#define KLATCH_EVENT_DISCONNECTED 2

/** A connection has become a member: connection, user, room. */
#define KLATCH_EVENT_JOINED 3

/** A connection is no longer a member: connection, user, room. */
#define KLATCH_EVENT_LEFT 4

/** Storing has become impossible (code and reason, one of KLATCH_ERROR_*), or possible again (code 0). */
#define KLATCH_EVENT_STORAGE 5

/** Events were lost here because they were not read: count. */
#define KLATCH_EVENT_LOST 6

/** An event that is newer than this library's header. */
#define KLATCH_EVENT_OTHER 0

/** Something that happened. Freed with klatch_event_free(), unless a callback was lent it. */
typedef struct klatch_event_t klatch_event_t;

/**
 * Is lent an event, or NULL once: the engine has stopped, and there are no more.
 *
 * It runs on a thread of the library that the callbacks of one engine share, so it is never called twice at once. It may take its time, in
 * which the queue fills, and may call everything. `event` is borrowed until it returns: klatch_event_clone() keeps it.
 */
typedef void (*klatch_event_fn)(void *user_data, const klatch_event_t *event);

/**
 * The next event. Waits for it, at most `timeout_ms`.
 *
 * Gives it; it is freed with klatch_event_free(). NULL without an error: none came in time. Several threads may wait: each event goes to one.
 * Errors: stopped, once the engine has stopped and every event was read, or the handle has been freed; would_deadlock for a timeout other
 * than 0 in callbacks that tell of a publish.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_next_event(klatch_engine_t *engine,
                                         uint64_t timeout_ms,
                                         klatch_event_t **out_event);

/**
 * A descriptor that is readable (POLLIN, EPOLLIN) while klatch_engine_next_event() may have something, or the end, to give. Wait for it
 * level-triggered, then call that with a timeout of 0 until it gives NULL: only that makes it unreadable. Never read, write or close the
 * descriptor itself; it is closed with the engine's handle.
 *
 * Errors: internal, where the system refuses a descriptor; stopped, if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_event_fd(klatch_engine_t *engine,
                                       int32_t *out_fd);

/**
 * Has `event` called with each event from now on; NULL has none called. It takes the place of the callback before, which is not called any
 * more once this has returned, unless this is called in it.
 *
 * Takes `user_data`. Errors: internal, where the system refuses a thread; stopped, if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_on_event(klatch_engine_t *engine,
                                       klatch_event_fn event,
                                       void *user_data,
                                       klatch_free_fn free_user_data);

/** What happened, one of KLATCH_EVENT_*. KLATCH_EVENT_OTHER if `event` is NULL. */
KLATCH_API int32_t klatch_event_kind(const klatch_event_t *event);

/** The connection's id; empty where there is none. It lives as long as `event`, as do the other texts. */
KLATCH_API klatch_str_t klatch_event_connection(const klatch_event_t *event);

/** The connection's user; empty for an anonymous one, or where there is none. */
KLATCH_API klatch_str_t klatch_event_user(const klatch_event_t *event);

/** The room; empty where there is none. */
KLATCH_API klatch_str_t klatch_event_room(const klatch_event_t *event);

/** The client's address, "127.0.0.1:50312"; empty where there is none. */
KLATCH_API klatch_str_t klatch_event_address(const klatch_event_t *event);

/** The name of the code, "slow" or "storage_full" for instance; empty where there is none. */
KLATCH_API klatch_str_t klatch_event_reason(const klatch_event_t *event);

/** Of KLATCH_EVENT_DISCONNECTED the disconnect code (4000 to 4999), of KLATCH_EVENT_STORAGE the error code; 0 where there is none. */
KLATCH_API
int32_t klatch_event_code(const klatch_event_t *event);

/** Of KLATCH_EVENT_LOST: how many events are missing here. */
KLATCH_API uint64_t klatch_event_count(const klatch_event_t *event);

/** A copy of its own, for what a callback wants to keep. Gives it; NULL if `event` is NULL. */
KLATCH_API klatch_event_t *klatch_event_clone(const klatch_event_t *event);

/** Frees `event`, which may be NULL. */
KLATCH_API void klatch_event_free(klatch_event_t *event);


/* Presence ------------------------------------------------------------------------------------------------------------
 *
 * Who is in a room, on this node.
 */

/** Who is in a room. Freed with klatch_presence_free(). */
typedef struct klatch_presence_t klatch_presence_t;

/**
 * Who is in `room` now. An engine that has stopped has nobody.
 *
 * Borrows `room`. Gives the list; it is freed with klatch_presence_free(). Errors: invalid_name for what is no text; stopped, if the handle
 * has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_presence(const klatch_engine_t *engine,
                                       klatch_str_t room,
                                       klatch_presence_t **out_presence);

/** Members, counted by connection, anonymous ones among them. 0 if `presence` is NULL. */
KLATCH_API uint32_t klatch_presence_count(const klatch_presence_t *presence);

/** How many named users are listed: at most the setting limits.presence_names. */
KLATCH_API size_t klatch_presence_user_count(const klatch_presence_t *presence);

/** The `index`th user, in the order of names. It lives as long as `presence`; empty if there is none. */
KLATCH_API klatch_str_t klatch_presence_user(const klatch_presence_t *presence, size_t index);

/** The connections of the `index`th user. 0 if there is none. */
KLATCH_API uint32_t klatch_presence_connections(const klatch_presence_t *presence, size_t index);

/** Whether there are more named users than are listed. */
KLATCH_API bool klatch_presence_truncated(const klatch_presence_t *presence);

/** Frees a list, which may be NULL. */
KLATCH_API void klatch_presence_free(klatch_presence_t *presence);


/* Signals and kicks ---------------------------------------------------------------------------------------------------
 *
 * A signal is an event that is delivered to those who are there and not stored. None of these functions waits.
 */

/**
 * Delivers an event to a room's members. `name` is its name, `json` its data, `user` its sender (empty: anonymous).
 *
 * Borrows everything. Errors: invalid_name, invalid_data, too_deep, too_large; busy while the connections' threads do not keep up; stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_signal(klatch_engine_t *engine,
                                     klatch_str_t room,
                                     klatch_str_t user,
                                     klatch_str_t name,
                                     klatch_str_t json);

/**
 * Delivers an event to one connection, by the id that its events and requests name. Its client gets a signal without a room. Nothing
 * happens if there is no such connection on this node, or it has not been let in.
 *
 * Borrows everything. Errors: those of klatch_engine_signal(); bad_request for what is no connection id.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_send(klatch_engine_t *engine,
                                   klatch_str_t connection,
                                   klatch_str_t name,
                                   klatch_str_t json);

/**
 * Takes a user's connections out of `room`, or, if that is empty, closes them with `kicked`, which tells their clients not to come back.
 * Takes effect soon after the call.
 *
 * Borrows everything. Errors: invalid_name for what is no text; stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_kick_user(klatch_engine_t *engine,
                                        klatch_str_t user,
                                        klatch_str_t room);

/**
 * The same for one connection, by the id that its events and requests name.
 *
 * Borrows everything. Errors: bad_request for what is no connection id; stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_kick_connection(klatch_engine_t *engine,
                                              klatch_str_t connection,
                                              klatch_str_t room);


/* Work consumers ------------------------------------------------------------------------------------------------------
 *
 * On Kafka: each publication of every room is handled on one node of a group, at least once, in the order of its room.
 *
 * docs/kafka.md says what a group is, when something is handled again, and what is not handled.
 */

/** Which group a consumer belongs to, and how it works. Freed with klatch_consume_free(). For one thread at a time. */
typedef struct klatch_consume_t klatch_consume_t;

/** How a consumer is. Freed with klatch_consumer_status_free(). */
typedef struct klatch_consumer_status_t klatch_consumer_status_t;

/** A consumer at work. Freed with klatch_consumer_free(). */
typedef struct klatch_consumer_t klatch_consumer_t;

/**
 * Handles a publication, which is borrowed until it returns. 0: it is done with for good; anything else has it called again with the same
 * one, after a while that grows. The number is shown as the last error.
 *
 * It runs on threads of the consumer's own, up to the number of klatch_consume_threads() at once, never two of one room; it may take its
 * time, and may call everything.
 */
typedef int32_t (*klatch_handler_fn)(void *user_data, const klatch_publication_t *publication);

/** A consumer of the group "chats". Never NULL. */
KLATCH_API klatch_consume_t *klatch_consume_new(void);

/**
 * The group. All consumers of one name share the work, whatever node they are on. It is to be called before the other setters.
 *
 * Borrows `group`. Errors: invalid_name for what is no text; stopped if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consume_group(klatch_consume_t *consume,
                                     klatch_str_t group);

/**
 * A group that is new begins at the end of the topic. Default: at its beginning.
 *
 * Errors: stopped if the handle has been freed.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_consume_from_end(klatch_consume_t *consume);

/**
 * How many handlers may run at once, 1 to 256. Default 1.
 *
 * Errors: stopped if the handle has been freed.
 */
KLATCH_API KLATCH_MUST_USE klatch_error_t *klatch_consume_threads(klatch_consume_t *consume, size_t count);

/**
 * How long to wait before a publication is handled again after an error, in milliseconds, and the longest that this grows to. Default 200
 * and 30,000.
 *
 * Errors: stopped if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consume_retry(klatch_consume_t *consume,
                                     uint64_t first_ms,
                                     uint64_t longest_ms);

/**
 * How long a partition that goes to another member waits for the handler that is at work on it, in milliseconds. Default 30,000.
 *
 * Errors: stopped if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consume_release(klatch_consume_t *consume,
                                       uint64_t patience_ms);

/**
 * A property of librdkafka's for this consumer alone.
 *
 * Borrows `name` and `value`. Errors: invalid_name for what is no text; stopped if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consume_property(klatch_consume_t *consume,
                                        klatch_str_t name,
                                        klatch_str_t value);

/** Frees it, which may be NULL. The consumers that were made of it go on. */
KLATCH_API void klatch_consume_free(klatch_consume_t *consume);

/**
 * Has `handler` called for every publication of every room, as a member of a group.
 *
 * Borrows `consume` (NULL: the group "chats"), takes `user_data`, gives the consumer; it is freed with klatch_consumer_free(). Errors:
 * unsupported where the log is no Kafka topic; invalid_name; invalid_config for a property or a number of threads that cannot be;
 * bad_request if `handler` is NULL; stopping, stopped.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_engine_consume(klatch_engine_t *engine,
                                      const klatch_consume_t *consume,
                                      klatch_handler_fn handler,
                                      void *user_data,
                                      klatch_free_fn free_user_data,
                                      klatch_consumer_t **out_consumer);

/**
 * How the consumer is.
 *
 * Gives the status; it is freed with klatch_consumer_status_free(). Errors: stopped if the handle has been freed.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consumer_status(const klatch_consumer_t *consumer,
                                       klatch_consumer_status_t **out_status);

/**
 * Stops: no further publication is handled, the handlers that run are waited for, what is done is committed, and the group is left, all of
 * it within about `timeout_ms`. A handler that calls it does not wait for itself.
 *
 * `out_committed` may be NULL; else it gets whether everything that was handled is committed. If not, the group will handle some
 * publications once more. Errors: stopped if the handle has been freed; would_deadlock in callbacks that tell of a publish.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_consumer_stop(klatch_consumer_t *consumer,
                                     uint64_t timeout_ms,
                                     bool *out_committed);

/**
 * Stops the consumer as with a timeout of 4 s, unless it has been stopped, and releases the handle, which may be NULL. The handler is not
 * called once this has returned; it waits for one that runs, at most 4 s, but not for the one that it is called in.
 */
KLATCH_API
void klatch_consumer_free(klatch_consumer_t *consumer);

/** How many partitions it has now. None while its group is dividing them, or has more members than partitions. */
KLATCH_API uint64_t klatch_consumer_status_partitions(const klatch_consumer_status_t *status);

/** Records of these partitions that this node has read and this consumer has not dealt with. */
KLATCH_API uint64_t klatch_consumer_status_lag(const klatch_consumer_status_t *status);

/** Publications whose handler has returned 0. */
KLATCH_API uint64_t klatch_consumer_status_handled(const klatch_consumer_status_t *status);

/** Errors of the handler; after each it was, or will be, called again. */
KLATCH_API uint64_t klatch_consumer_status_retries(const klatch_consumer_status_t *status);

/** Records that no member saw either: duplicates, conflicts, and what is no message. */
KLATCH_API uint64_t klatch_consumer_status_skipped(const klatch_consumer_status_t *status);

/** How often a partition was begun anew at its first record, because the topic no longer had what came next. */
KLATCH_API uint64_t klatch_consumer_status_resets(const klatch_consumer_status_t *status);

/** The handler's last error; empty once that publication was handled. It lives as long as `status`. */
KLATCH_API klatch_str_t klatch_consumer_status_last_error(const klatch_consumer_status_t *status);

/** Why the consumer has ended, if not because it was told to; else NULL. It lives as long as `status`, and is not to be freed. */
KLATCH_API
const klatch_error_t *klatch_consumer_status_failed(const klatch_consumer_status_t *status);

/** Frees a status, which may be NULL. */
KLATCH_API void klatch_consumer_status_free(klatch_consumer_status_t *status);


/* The log -------------------------------------------------------------------------------------------------------------
 *
 * What an operator should know: the one thing that belongs to the whole process and not to an engine.
 *
 * The library never prints. Until a handler is set, what it has to say for an operator is dropped. Its lines never hold message text, tokens
 * or names; an error is a fault or a lost guarantee.
 */

/** A fault, or a guarantee that was lost. */
#define KLATCH_LOG_ERROR 1

/** Something that an operator should look at. */
#define KLATCH_LOG_WARN 2

/** What happens rarely and is normal. */
#define KLATCH_LOG_INFO 3

/** For those who look for a fault. */
#define KLATCH_LOG_DEBUG 4

/**
 * Is told a line of the log: its level, one of KLATCH_LOG_*, the part of the library that it comes from, and the text with its fields.
 *
 * It runs on a thread of its own, one call at a time, and may call everything but klatch_log_set(). The texts are borrowed until it returns.
 * Lines that it does not take in time are dropped past 1,024, and counted in a line of their own.
 */
typedef void (*klatch_log_fn)(void *user_data, int32_t level, klatch_str_t target, klatch_str_t message);

/**
 * Has `line` called with every line of the log up to `level`; NULL has none called. It takes the place of the one before, which is called
 * with what waits for it, and not any more once this has returned.
 *
 * Takes `user_data`. Errors: bad_request for what is no level; would_deadlock in a log handler, and in callbacks that tell of a publish;
 * unsupported where the process's Rust code has a subscriber of its own; internal where the system refuses a thread.
 */
KLATCH_API
KLATCH_MUST_USE
klatch_error_t *klatch_log_set(int32_t level,
                               klatch_log_fn line,
                               void *user_data,
                               klatch_free_fn free_user_data);

#ifdef __cplusplus
}
#endif

#endif /* KLATCH_H */
