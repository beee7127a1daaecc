/*
 * klatch.hpp: klatch for C++17 and later. A chat engine in your program: rooms, a WebSocket server, and a durable, ordered message log.
 *
 * All of it is in this header, on top of klatch.h, which says what each function does, on which threads callbacks run, and what the errors
 * mean. Here is only what C++ has in its place:
 *
 *     #include <klatch.hpp>
 *     #include <iostream>
 *
 *     int main() {
 *         auto engine = klatch::Builder().log("memory").listen("127.0.0.1:0").start();
 *         if (!engine) {
 *             std::cerr << engine.error().text() << '\n';
 *             return 1;
 *         }
 *         auto ack = engine->publish(klatch::Message::json("lobby", R"("hello")").user("host"));
 *         if (auto page = engine->history("lobby"))
 *             for (klatch::Publication p : *page) std::cout << p.user() << ": " << p.data() << '\n';
 *         return ack.ok() ? 0 : 1;
 *     }
 *
 * OWNERSHIP. Objects own what they stand for, can be moved and not copied, and free it when they go, in any order. One that was moved from
 * is empty: its calls fail as bad_request or give nothing. Texts are std::string_view: those that go in are not used after the call, those
 * that come out live as long as the object that they came from. What a callback is given is borrowed until it returns; clone() keeps it.
 *
 * ERRORS. What can fail gives a Result, which holds the value or an Error; the compiler warns where one is dropped. Nothing here throws by
 * itself but Result::value(), operator* and operator-> of a Result that holds an error (in a program without exceptions they end it), and
 * what allocates memory.
 *
 * CALLBACKS are anything that can be called: lambdas, also those that can only be moved, functions, std::function. They may throw: then
 * Builder::on_fault() is told, and nothing else happens where no result is expected. A hook that throws has not answered: the client is told
 * `internal`. A handler of work that throws is called again with the same publication.
 *
 * SHUTDOWN. Engine::stop() drains; the destructor does it too, with one second.
 */

#ifndef KLATCH_HPP
#define KLATCH_HPP

#include <klatch.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define KLATCH_HPP_EXCEPTIONS 1
#else
#define KLATCH_HPP_EXCEPTIONS 0
#endif

namespace klatch {

namespace detail {

inline klatch_str_t in(std::string_view text) noexcept { return klatch_str_t{text.data(), text.size()}; }

inline klatch_bytes_t bytes_in(std::string_view bytes) noexcept {
    return klatch_bytes_t{reinterpret_cast<const std::uint8_t *>(bytes.data()), bytes.size()};
}

inline std::string_view out(klatch_str_t text) noexcept { return std::string_view(text.ptr, text.len); }

inline std::string_view out(klatch_bytes_t bytes) noexcept {
    return bytes.len == 0 ? std::string_view() : std::string_view(reinterpret_cast<const char *>(bytes.ptr), bytes.len);
}

/* Less than nothing is nothing. */
inline std::uint64_t ms(std::chrono::milliseconds time) noexcept {
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
}

/* For the constructors that only borrow. */
struct Lent {};

/* Something that is freed with the object, or borrowed by it. */
template <class T, void (*Free)(T *)> class Object {
public:
    /* Takes what a function of klatch.h gave. */
    explicit Object(T *object) noexcept : object_(object) {}
    /* Borrows it. What changes something cannot be called through what is const in C. */
    Object(const T *object, Lent) noexcept : object_(const_cast<T *>(object)), owned_(false) {}
    Object(const Object &) = delete;
    Object &operator=(const Object &) = delete;
    Object(Object &&other) noexcept : object_(std::exchange(other.object_, nullptr)), owned_(other.owned_) {}
    Object &operator=(Object &&other) noexcept {
        if (this != &other) {
            T *old = owned_ ? object_ : nullptr;
            object_ = std::exchange(other.object_, nullptr);
            owned_ = other.owned_;
            Free(old);
        }
        return *this;
    }
    ~Object() {
        if (owned_) Free(object_);
    }

    /* What it stands for, for functions of klatch.h. It stays this object's. */
    T *get() const noexcept { return object_; }

protected:
    /* What is to be given to a function that takes it. */
    T *release() noexcept { return std::exchange(object_, nullptr); }

private:
    T *object_;
    bool owned_ = true;
};

} // namespace detail

/* Versions and errors ------------------------------------------------------------------------------------------------------------------ */

/** The version of the library, "0.1.0". */
inline std::string_view version() noexcept { return detail::out(klatch_version()); }

/** The same as a number like KLATCH_VERSION_NUMBER. */
inline std::uint32_t version_number() noexcept { return klatch_version_number(); }

/** The ABI of the library, to be compared with KLATCH_ABI_VERSION. */
inline std::uint32_t abi_version() noexcept { return klatch_abi_version(); }

/** What to do about an error. */
enum class Retry : std::int32_t {
    none = 0, /**< There is no error. */
    later = KLATCH_RETRY_LATER,
    never = KLATCH_RETRY_NEVER,
    same_id = KLATCH_RETRY_SAME_ID,
    forbidden = KLATCH_RETRY_FORBIDDEN,
    operator_needed = KLATCH_RETRY_OPERATOR,
};

/** Why a call failed; or that it did not, then it is false. Copies are the same error. */
class [[nodiscard]] Error {
public:
    /** No error. */
    Error() noexcept = default;
    /** Takes what a function of klatch.h returned. */
    explicit Error(klatch_error_t *error) noexcept {
        if (error != nullptr) error_ = std::shared_ptr<const klatch_error_t>(error, klatch_error_free);
    }
    /** Borrows it. */
    Error(const klatch_error_t *error, detail::Lent) noexcept : error_(std::shared_ptr<void>(), error) {}

    /** Whether there is one. */
    explicit operator bool() const noexcept { return error_ != nullptr; }
    /** One of KLATCH_ERROR_*, or one that is newer than this header; 0 without an error. */
    std::int32_t code() const noexcept { return klatch_error_code(get()); }
    /** The code's name, such as "storage_full". */
    std::string_view name() const noexcept { return detail::out(klatch_error_name(get())); }
    /** A text for people. */
    std::string_view message() const noexcept { return detail::out(klatch_error_message(get())); }
    /** Name and message. */
    std::string text() const { return std::string(name()).append(": ").append(message()); }
    /** What to do. */
    Retry retry() const noexcept { return static_cast<Retry>(klatch_error_retry(get())); }
    /** When a retry may succeed; 0 where retrying does not help by itself. */
    std::chrono::milliseconds retry_after() const noexcept {
        return std::chrono::milliseconds(klatch_error_retry_after_ms(get()));
    }
    /** For functions of klatch.h. */
    const klatch_error_t *get() const noexcept { return error_.get(); }

private:
    std::shared_ptr<const klatch_error_t> error_;
};

/** What Result::value() throws. */
class Exception : public std::runtime_error {
public:
    explicit Exception(const Error &error) : std::runtime_error(error.text()), code_(error.code()) {}
    /** One of KLATCH_ERROR_*. */
    std::int32_t code() const noexcept { return code_; }

private:
    std::int32_t code_;
};

namespace detail {
[[noreturn]] inline void fail(const Error &error) {
#if KLATCH_HPP_EXCEPTIONS
    throw Exception(error);
#else
    static_cast<void>(error);
    std::terminate();
#endif
}
} // namespace detail

/** A value, or the error for which there is none. */
template <class T> class [[nodiscard]] Result {
public:
    Result(T value) noexcept(std::is_nothrow_move_constructible_v<T>) : value_(std::move(value)) {}
    Result(Error error) noexcept : error_(std::move(error)) {}

    /** Whether there is a value. */
    bool ok() const noexcept { return value_.has_value(); }
    explicit operator bool() const noexcept { return ok(); }
    /** The error; without one it is false, and its code 0. */
    const Error &error() const & noexcept { return error_; }
    Error &&error() && noexcept { return std::move(error_); }

    /** The value. Throws Exception if there is none. Of a result that goes it is moved out, so that it outlives that. */
    T &value() & { return *checked(); }
    const T &value() const & {
        if (!ok()) detail::fail(error_);
        return *value_;
    }
    T value() && { return std::move(*checked()); }
    T &operator*() & { return value(); }
    const T &operator*() const & { return value(); }
    T operator*() && { return std::move(*checked()); }
    T *operator->() { return &value(); }
    const T *operator->() const { return &value(); }

private:
    std::optional<T> &checked() {
        if (!ok()) detail::fail(error_);
        return value_;
    }

    std::optional<T> value_;
    Error error_;
};

/** Success, or the error. */
template <> class [[nodiscard]] Result<void> {
public:
    Result() noexcept = default;
    Result(Error error) noexcept : error_(std::move(error)) {}

    bool ok() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return ok(); }
    /** The error; without one it is false, and its code 0. */
    const Error &error() const & noexcept { return error_; }
    Error &&error() && noexcept { return std::move(error_); }
    /** Throws Exception if there is an error. */
    void value() const {
        if (!ok()) detail::fail(error_);
    }

private:
    Error error_;
};

/* Callbacks ---------------------------------------------------------------------------------------------------------------------------- */

/** A callback of the host that went wrong. */
struct Fault {
    /** Which: "connect hook", "join hook", "publish hook", "event", "publications", "published", "handler" or "log". */
    std::string_view where;
    /** The exception's text, or the error's. */
    std::string_view what;
    /** The exception; empty where a hook's answer was refused. */
    std::exception_ptr exception;
};

namespace detail {

/* What the callbacks of an engine share: whom to tell if they throw. It is set before the engine starts. */
struct Host {
    std::function<void(const Fault &)> on_fault;

    void tell(const Fault &fault) const noexcept {
        if (!on_fault) return;
#if KLATCH_HPP_EXCEPTIONS
        try {
            on_fault(fault);
        } catch (...) {
            /* There is nobody left to tell. */
        }
#else
        on_fault(fault);
#endif
    }
};

using HostPointer = std::shared_ptr<const Host>;

/* Runs what the host has written; whether it came to its end. */
template <class Body> bool guarded(const Host &host, const char *where, Body &&body) noexcept {
#if KLATCH_HPP_EXCEPTIONS
    try {
        body();
        return true;
    } catch (const std::exception &e) {
        host.tell(Fault{where, e.what(), std::current_exception()});
    } catch (...) {
        host.tell(Fault{where, "not a std::exception", std::current_exception()});
    }
    return false;
#else
    static_cast<void>(host);
    static_cast<void>(where);
    body();
    return true;
#endif
}

/* A callback and how it is kept by the library, as its user_data. */
template <class F> struct Callback {
    F call;
    HostPointer host;

    template <class G> static Callback *make(G &&call, HostPointer host) {
        return new Callback{std::forward<G>(call), std::move(host)};
    }
    static Callback &of(void *user_data) noexcept { return *static_cast<Callback *>(user_data); }
    static void free(void *user_data) noexcept { delete static_cast<Callback *>(user_data); }
};

inline Result<void> done(klatch_error_t *error) noexcept { return Result<void>(Error(error)); }

} // namespace detail

/* Publishing --------------------------------------------------------------------------------------------------------------------------- */

/** What data is. */
enum class DataKind : std::int32_t { json = KLATCH_DATA_JSON, binary = KLATCH_DATA_BINARY };

/** A message that is to be published. Its texts are borrowed: make it in the call that publishes it. */
class Message {
public:
    /** Data that is one JSON value. */
    static Message json(std::string_view room, std::string_view json) noexcept {
        return Message(room, DataKind::json, json);
    }
    /** Data that is bytes. */
    static Message bytes(std::string_view room, std::string_view bytes) noexcept {
        return Message(room, DataKind::binary, bytes);
    }
    /** The same with a sender. Without: anonymous. */
    Message user(std::string_view user) const noexcept {
        Message message = *this;
        message.user_ = user;
        return message;
    }
    /** The same with an id, so that the publish can be repeated safely. Without, the engine makes one. */
    Message id(std::string_view id) const noexcept {
        Message message = *this;
        message.id_ = id;
        return message;
    }

private:
    friend class Engine;
    friend class Batch;
    Message(std::string_view room, DataKind kind, std::string_view data) noexcept
        : room_(room), data_(data), kind_(kind) {}

    std::string_view room_, user_, id_, data_;
    DataKind kind_;
};

/** That a message is stored, and where. */
class Ack : public detail::Object<klatch_ack_t, klatch_ack_free> {
public:
    using Object::Object;
    std::uint64_t offset() const noexcept { return klatch_ack_offset(get()); }
    std::string_view epoch() const noexcept { return detail::out(klatch_ack_epoch(get())); }
    std::string_view id() const noexcept { return detail::out(klatch_ack_id(get())); }
    /** Whether a publish with this id had been accepted before: the offset is that one's. */
    bool duplicate() const noexcept { return klatch_ack_duplicate(get()); }
};

/** Messages that are to be published together; at most 65,536. For one thread at a time. */
class Batch : public detail::Object<klatch_batch_t, klatch_batch_free> {
public:
    Batch() noexcept : Object(klatch_batch_new()) {}
    /** Adds a message; its texts are copied. */
    Result<void> add(const Message &m) noexcept {
        return detail::done(klatch_batch_add(get(), detail::in(m.room_), detail::in(m.user_), detail::in(m.id_),
                                             static_cast<std::int32_t>(m.kind_), detail::bytes_in(m.data_)));
    }
};

/** What became of the messages of a batch, in their order. */
class Outcomes : public detail::Object<klatch_outcomes_t, klatch_outcomes_free> {
public:
    using Object::Object;
    std::size_t size() const noexcept { return klatch_outcomes_count(get()); }
    /** Borrowed from this object. Past the end it is an error of code 0. */
    Result<Ack> operator[](std::size_t index) const noexcept;
};

/* Publications ------------------------------------------------------------------------------------------------------------------------- */

/** A message as it is delivered. Lives as long as the batch that it is of. */
class Publication {
public:
    explicit Publication(const klatch_publication_t *publication) noexcept : publication_(publication) {}
    std::string_view room() const noexcept { return detail::out(klatch_publication_room(publication_)); }
    /** The sender; empty for an anonymous one. */
    std::string_view user() const noexcept { return detail::out(klatch_publication_user(publication_)); }
    std::string_view id() const noexcept { return detail::out(klatch_publication_id(publication_)); }
    DataKind kind() const noexcept { return static_cast<DataKind>(klatch_publication_kind(publication_)); }
    /** JSON text, or bytes. */
    std::string_view data() const noexcept { return detail::out(klatch_publication_data(publication_)); }
    std::uint64_t offset() const noexcept { return klatch_publication_offset(publication_); }
    /** The offset of the publication before it in its room, or 0. */
    std::uint64_t prev() const noexcept { return klatch_publication_prev(publication_); }
    /** The log's time of it. */
    std::chrono::system_clock::time_point time() const noexcept {
        return std::chrono::system_clock::time_point(
            std::chrono::milliseconds(static_cast<std::int64_t>(klatch_publication_time(publication_))));
    }
    const klatch_publication_t *get() const noexcept { return publication_; }

private:
    const klatch_publication_t *publication_;
};

/** Publications of a room, in order. */
class Publications : public detail::Object<klatch_publications_t, klatch_publications_free> {
public:
    using Object::Object;
    /** Goes through publications. */
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Publication;
        using difference_type = std::ptrdiff_t;
        using pointer = void;
        using reference = Publication;

        Publication operator*() const noexcept { return Publication(klatch_publications_at(of_, index_)); }
        iterator &operator++() noexcept {
            ++index_;
            return *this;
        }
        iterator operator++(int) noexcept {
            iterator before = *this;
            ++index_;
            return before;
        }
        friend bool operator==(const iterator &a, const iterator &b) noexcept { return a.index_ == b.index_; }
        friend bool operator!=(const iterator &a, const iterator &b) noexcept { return a.index_ != b.index_; }

    private:
        friend class Publications;
        iterator(const klatch_publications_t *of, std::size_t index) noexcept : of_(of), index_(index) {}
        const klatch_publications_t *of_;
        std::size_t index_;
    };

    iterator begin() const noexcept { return iterator(get(), 0); }
    iterator end() const noexcept { return iterator(get(), size()); }
    std::size_t size() const noexcept { return klatch_publications_count(get()); }
    bool empty() const noexcept { return size() == 0; }
    /** Past the end: one without any content. */
    Publication operator[](std::size_t index) const noexcept { return Publication(klatch_publications_at(get(), index)); }
    std::string_view epoch() const noexcept { return detail::out(klatch_publications_epoch(get())); }
    /** Of a page of history: whether the range that was asked for holds more, in the direction read. */
    bool more() const noexcept { return klatch_publications_more(get()); }
    /** Of a page of history: the room's last offset. */
    std::uint64_t last() const noexcept { return klatch_publications_last(get()); }
    /** A copy of its own, for what a callback wants to keep. */
    Publications clone() const noexcept { return Publications(klatch_publications_clone(get())); }
};

/** Which page of a room's history. */
struct History {
    /** Offsets above this one. */
    std::uint64_t after = 0;
    /** Offsets below this one; 0: no bound. */
    std::uint64_t before = 0;
    std::uint32_t limit = 50;
    /** The newest first. */
    bool backward = false;
    /** Fail as unavailable before the view has reached this offset. */
    std::uint64_t at_least = 0;
};

/** Why a subscription has ended. */
enum class Ended : std::int32_t {
    not_yet = KLATCH_ENDED_NOT,
    closed = KLATCH_ENDED_CLOSED,
    slow = KLATCH_ENDED_SLOW,
    dropped = KLATCH_ENDED_DROPPED,
    unreadable = KLATCH_ENDED_UNREADABLE,
    reset = KLATCH_ENDED_RESET,
    stopped = KLATCH_ENDED_STOPPED,
};

/** A room that the host listens to: history first, then live, without gap or double. It ends with the object. */
class Subscription : public detail::Object<klatch_subscription_t, klatch_subscription_free> {
public:
    /** The next publications, at most `max`; none if none came in time. The error `ended` once everything has been read. */
    Result<std::optional<Publications>> next(std::chrono::milliseconds timeout, std::size_t max = 100) noexcept;
    /** A descriptor that is readable while next() with a timeout of 0 may have something to give. It stays the subscription's. */
    Result<int> fd() noexcept {
        std::int32_t fd = -1;
        if (klatch_error_t *error = klatch_subscription_fd(get(), &fd)) return Error(error);
        return static_cast<int>(fd);
    }
    /** Has `call(const Publications &, Ended)` called with everything that comes, and once, without publications, with why it ends. */
    template <class F> Result<void> on_publications(F &&call);
    /** Whether the position that it began with could be resumed from. */
    bool recovered() const noexcept { return klatch_subscription_recovered(get()); }
    /** The offset of the last publication that was read: with the epoch, where to go on. */
    std::uint64_t offset() const noexcept { return klatch_subscription_offset(get()); }
    std::string_view epoch() const noexcept { return detail::out(klatch_subscription_epoch(get())); }
    Ended ended() const noexcept { return static_cast<Ended>(klatch_subscription_ended(get())); }

private:
    friend class Engine;
    Subscription(klatch_subscription_t *subscription, detail::HostPointer host) noexcept
        : Object(subscription), host_(std::move(host)) {}
    detail::HostPointer host_;
};

/* Events and presence ------------------------------------------------------------------------------------------------------------------ */

/** What happened. */
enum class EventKind : std::int32_t {
    connected = KLATCH_EVENT_CONNECTED,
    disconnected = KLATCH_EVENT_DISCONNECTED,
    joined = KLATCH_EVENT_JOINED,
    left = KLATCH_EVENT_LEFT,
    storage = KLATCH_EVENT_STORAGE,
    lost = KLATCH_EVENT_LOST,
    other = KLATCH_EVENT_OTHER,
};

/** Something that happened: who came, who went, how the storage is. */
class Event : public detail::Object<klatch_event_t, klatch_event_free> {
public:
    using Object::Object;
    EventKind kind() const noexcept { return static_cast<EventKind>(klatch_event_kind(get())); }
    std::string_view connection() const noexcept { return detail::out(klatch_event_connection(get())); }
    std::string_view user() const noexcept { return detail::out(klatch_event_user(get())); }
    std::string_view room() const noexcept { return detail::out(klatch_event_room(get())); }
    std::string_view address() const noexcept { return detail::out(klatch_event_address(get())); }
    std::string_view reason() const noexcept { return detail::out(klatch_event_reason(get())); }
    std::int32_t code() const noexcept { return klatch_event_code(get()); }
    /** Of `lost`: how many events are missing here. */
    std::uint64_t count() const noexcept { return klatch_event_count(get()); }
    /** A copy of its own, for what a callback wants to keep. */
    Event clone() const noexcept { return Event(klatch_event_clone(get())); }
};

/** Who is in a room, on this node. */
class Presence : public detail::Object<klatch_presence_t, klatch_presence_free> {
public:
    using Object::Object;
    /** Members, counted by connection, anonymous ones among them. */
    std::uint32_t count() const noexcept { return klatch_presence_count(get()); }
    /** How many named users are listed. */
    std::size_t size() const noexcept { return klatch_presence_user_count(get()); }
    /** The user of this index, in the order of names. */
    std::string_view user(std::size_t index) const noexcept { return detail::out(klatch_presence_user(get(), index)); }
    std::uint32_t connections(std::size_t index) const noexcept { return klatch_presence_connections(get(), index); }
    /** Whether there are more named users than are listed. */
    bool truncated() const noexcept { return klatch_presence_truncated(get()); }
};

/* Hooks -------------------------------------------------------------------------------------------------------------------------------- */

/** What a hook decides. */
class [[nodiscard]] Answer {
public:
    /** It may: a connect as the user that the client claims to be, a publish as it is. */
    static Answer allow() noexcept { return Answer(Kind::allow); }
    /** Of a connect: it is let in as this user (empty: anonymous). */
    static Answer allow_as(std::string_view user) { return Answer(Kind::allow_as, user); }
    /** It may not. The message goes to the client. */
    static Answer deny(std::string_view message) { return Answer(Kind::deny, message); }
    /** Of a publish: this JSON value is stored in its place. */
    static Answer replace_json(std::string_view json) { return Answer(Kind::replace_json, json); }
    /** Of a publish: these bytes are stored in its place. */
    static Answer replace_bytes(std::string_view bytes) { return Answer(Kind::replace_bytes, bytes); }
    /** What Request::keep() gave will be answered. */
    static Answer later() noexcept { return Answer(Kind::later); }

private:
    friend class Request;
    enum class Kind { allow, allow_as, deny, replace_json, replace_bytes, later };
    explicit Answer(Kind kind) noexcept : kind_(kind) {}
    Answer(Kind kind, std::string_view text) : kind_(kind), text_(text) {}
    Kind kind_;
    std::string text_;
};

/** What a hook is asked for. */
enum class RequestKind : std::int32_t {
    ended = 0, /**< The request has ended. */
    connect = KLATCH_REQUEST_CONNECT,
    join = KLATCH_REQUEST_JOIN,
    publish = KLATCH_REQUEST_PUBLISH,
};

/** Who asks for what. */
class Request : public detail::Object<klatch_request_t, klatch_request_free> {
public:
    using Object::Object;
    RequestKind what() const noexcept { return static_cast<RequestKind>(klatch_request_what(get())); }
    std::string_view connection() const noexcept { return detail::out(klatch_request_connection(get())); }
    /** Of a connect the user that the client claims to be, else the one that the connection is. */
    std::string_view user() const noexcept { return detail::out(klatch_request_user(get())); }
    std::string_view token() const noexcept { return detail::out(klatch_request_token(get())); }
    std::string_view address() const noexcept { return detail::out(klatch_request_address(get())); }
    std::string_view room() const noexcept { return detail::out(klatch_request_room(get())); }
    std::string_view id() const noexcept { return detail::out(klatch_request_id(get())); }
    DataKind kind() const noexcept { return static_cast<DataKind>(klatch_request_kind(get())); }
    std::string_view data() const noexcept { return detail::out(klatch_request_data(get())); }

    /** Makes it outlive its hook, which returns Answer::later(). It may be answered from any thread. */
    Result<Request> keep() const noexcept {
        if (klatch_error_t *error = klatch_request_keep(get())) return Error(error);
        return Request(get());
    }
    /** Answers a request that was kept. Without an answer it is given up with the object: the client is told `internal`. */
    Result<void> answer(const Answer &answer) noexcept {
        const std::string_view text = answer.text_;
        switch (answer.kind_) {
        case Answer::Kind::allow: return detail::done(klatch_request_allow(get()));
        case Answer::Kind::allow_as: return detail::done(klatch_request_allow_as(get(), detail::in(text)));
        case Answer::Kind::deny: return detail::done(klatch_request_deny(get(), detail::in(text)));
        case Answer::Kind::replace_json: return detail::done(klatch_request_replace_json(get(), detail::in(text)));
        case Answer::Kind::replace_bytes: return detail::done(klatch_request_replace_bytes(get(), detail::bytes_in(text)));
        case Answer::Kind::later: break;
        }
        return {};
    }
};

/* Work consumers ----------------------------------------------------------------------------------------------------------------------- */

/** What a handler of work says. */
enum class Handled { done, again };

/** Which group a consumer belongs to, and how it works. A setting that fails is told by Engine::consume(). */
class Consume : public detail::Object<klatch_consume_t, klatch_consume_free> {
public:
    /** A consumer of this group. */
    explicit Consume(std::string_view group = "chats") noexcept : Object(klatch_consume_new()) {
        note(klatch_consume_group(get(), detail::in(group)));
    }
    /** A group that is new begins at the end of the topic. */
    Consume &from_end() noexcept { return note(klatch_consume_from_end(get())); }
    /** How many handlers may run at once, 1 to 256. */
    Consume &threads(std::size_t count) noexcept { return note(klatch_consume_threads(get(), count)); }
    /** How long to wait before a publication is handled again, and the longest that this grows to. */
    Consume &retry(std::chrono::milliseconds first, std::chrono::milliseconds longest) noexcept {
        return note(klatch_consume_retry(get(), detail::ms(first), detail::ms(longest)));
    }
    /** How long a partition that goes to another member waits for the handler that is at work on it. */
    Consume &release(std::chrono::milliseconds patience) noexcept {
        return note(klatch_consume_release(get(), detail::ms(patience)));
    }
    /** A property of librdkafka's for this consumer alone. */
    Consume &property(std::string_view name, std::string_view value) noexcept {
        return note(klatch_consume_property(get(), detail::in(name), detail::in(value)));
    }

private:
    friend class Engine;
    Consume &note(klatch_error_t *error) noexcept {
        Error taken(error);
        if (!failed_) failed_ = taken;
        return *this;
    }
    Error failed_;
};

/** How a consumer is. */
class ConsumerStatus : public detail::Object<klatch_consumer_status_t, klatch_consumer_status_free> {
public:
    using Object::Object;
    std::uint64_t partitions() const noexcept { return klatch_consumer_status_partitions(get()); }
    std::uint64_t lag() const noexcept { return klatch_consumer_status_lag(get()); }
    std::uint64_t handled() const noexcept { return klatch_consumer_status_handled(get()); }
    std::uint64_t retries() const noexcept { return klatch_consumer_status_retries(get()); }
    std::uint64_t skipped() const noexcept { return klatch_consumer_status_skipped(get()); }
    std::uint64_t resets() const noexcept { return klatch_consumer_status_resets(get()); }
    std::string_view last_error() const noexcept { return detail::out(klatch_consumer_status_last_error(get())); }
    /** Why it has ended, if not because it was told to. Borrowed from this object. */
    Error failed() const noexcept;
};

/** A consumer at work. It stops with the object, as with a timeout of 4 s. */
class Consumer : public detail::Object<klatch_consumer_t, klatch_consumer_free> {
public:
    using Object::Object;
    Result<ConsumerStatus> status() const noexcept;
    /** Stops; whether everything that was handled is committed. */
    Result<bool> stop(std::chrono::milliseconds timeout) noexcept {
        bool committed = false;
        if (klatch_error_t *error = klatch_consumer_stop(get(), detail::ms(timeout), &committed)) return Error(error);
        return committed;
    }
};

/* Engines ------------------------------------------------------------------------------------------------------------------------------ */

/** Whether publishes are stored. */
enum class Health : std::int32_t {
    up = KLATCH_HEALTH_UP,
    storage_full = KLATCH_HEALTH_STORAGE_FULL,
    storage_failed = KLATCH_HEALTH_STORAGE_FAILED,
    log_damaged = KLATCH_HEALTH_LOG_DAMAGED,
    stopped = KLATCH_HEALTH_STOPPED,
    degraded = KLATCH_HEALTH_DEGRADED,
    down = KLATCH_HEALTH_DOWN,
    unknown = KLATCH_HEALTH_UNKNOWN,
};

namespace detail {

/* Borrows what became of a message. */
inline Result<Ack> outcome(const klatch_ack_t *ack, const klatch_error_t *error) noexcept {
    if (ack == nullptr) return Error(error, Lent());
    return Ack(ack, Lent());
}

inline const char *hook_name(const klatch_request_t *request) noexcept {
    switch (klatch_request_what(request)) {
    case KLATCH_REQUEST_CONNECT: return "connect hook";
    case KLATCH_REQUEST_JOIN: return "join hook";
    case KLATCH_REQUEST_PUBLISH: return "publish hook";
    default: return "hook";
    }
}

template <class F> void hook(void *user_data, klatch_request_t *pointer) noexcept {
    auto &self = Callback<F>::of(user_data);
    const char *where = hook_name(pointer);
    guarded(*self.host, where, [&] {
        const Request request = Request(pointer, Lent());
        const Answer answer = self.call(request);
        Result<void> answered = Request(pointer, Lent()).answer(answer);
        if (!answered) self.host->tell(Fault{where, answered.error().text(), nullptr});
    });
}

template <class F> void published(void *user_data, const klatch_ack_t *ack, const klatch_error_t *error) noexcept {
    auto &self = Callback<F>::of(user_data);
    guarded(*self.host, "published", [&] {
        const Result<Ack> outcome = detail::outcome(ack, error);
        self.call(outcome);
    });
}

template <class F> void publications(void *user_data, const klatch_publications_t *batch, std::int32_t ended) noexcept {
    auto &self = Callback<F>::of(user_data);
    guarded(*self.host, "publications", [&] {
        const Publications lent = Publications(batch, Lent());
        self.call(lent, static_cast<Ended>(ended));
    });
}

template <class F> void event(void *user_data, const klatch_event_t *event) noexcept {
    auto &self = Callback<F>::of(user_data);
    guarded(*self.host, "event", [&] {
        const Event lent = Event(event, Lent());
        self.call(event == nullptr ? nullptr : &lent);
    });
}

template <class F> std::int32_t handler(void *user_data, const klatch_publication_t *publication) noexcept {
    auto &self = Callback<F>::of(user_data);
    Handled handled = Handled::again;
    guarded(*self.host, "handler", [&] { handled = self.call(Publication(publication)); });
    return handled == Handled::done ? 0 : -1;
}

} // namespace detail

/** A running engine. It may be used by several threads at once. The destructor stops it as with a timeout of one second. */
class Engine : public detail::Object<klatch_engine_t, klatch_engine_free> {
public:
    std::size_t address_count() const noexcept { return klatch_engine_address_count(get()); }
    /** An address that it listens on, "127.0.0.1:8080", with the port that was picked; empty if there is none. */
    std::string_view address(std::size_t index = 0) const noexcept {
        return detail::out(klatch_engine_address(get(), index));
    }
    std::uint16_t port(std::size_t index = 0) const noexcept { return klatch_engine_port(get(), index); }
    Health health() const noexcept { return static_cast<Health>(klatch_engine_health(get())); }
    /** Its numbers in the Prometheus text format. */
    Result<std::string> metrics() const {
        klatch_text_t *text = nullptr;
        if (klatch_error_t *error = klatch_engine_metrics(get(), &text)) return Error(error);
        const std::unique_ptr<klatch_text_t, decltype(&klatch_text_free)> freed(text, klatch_text_free);
        return std::string(detail::out(klatch_text_str(text)));
    }

    /** Stores and delivers a message, and waits for the outcome. Past the timeout it is outcome_unknown. */
    Result<Ack> publish(const Message &m, std::chrono::milliseconds timeout = std::chrono::seconds(10)) noexcept {
        klatch_ack_t *ack = nullptr;
        klatch_error_t *error =
            klatch_engine_publish(get(), detail::in(m.room_), detail::in(m.user_), detail::in(m.id_),
                                  static_cast<std::int32_t>(m.kind_), detail::bytes_in(m.data_), detail::ms(timeout), &ack);
        if (error != nullptr) return Error(error);
        return Ack(ack);
    }
    /** Stores and delivers a message without waiting; `call(const Result<Ack> &)` is told the outcome, and must not wait. */
    template <class F> Result<void> publish_then(const Message &m, F &&call) {
        using D = std::decay_t<F>;
        static_assert(std::is_invocable_v<D &, const Result<Ack> &>, "call(const Result<Ack> &)");
        return detail::done(klatch_engine_publish_then(
            get(), detail::in(m.room_), detail::in(m.user_), detail::in(m.id_), static_cast<std::int32_t>(m.kind_),
            detail::bytes_in(m.data_), detail::published<D>,
            detail::Callback<D>::make(std::forward<F>(call), host_), detail::Callback<D>::free));
    }
    /** Publishes a batch, which empties it, and waits for all outcomes. */
    Result<Outcomes> publish(Batch &batch, std::chrono::milliseconds timeout = std::chrono::seconds(10)) noexcept {
        klatch_outcomes_t *outcomes = nullptr;
        klatch_error_t *error = klatch_engine_publish_batch(get(), batch.get(), detail::ms(timeout), &outcomes);
        if (error != nullptr) return Error(error);
        return Outcomes(outcomes);
    }

    /** A page of a room's history. */
    Result<Publications> history(std::string_view room, const History &which = History()) noexcept {
        klatch_publications_t *page = nullptr;
        klatch_error_t *error = klatch_engine_history(get(), detail::in(room), which.after, which.before, which.limit,
                                                      which.backward, which.at_least, &page);
        if (error != nullptr) return Error(error);
        return Publications(page);
    }
    /** Listens to a room: the newest `history` publications, then everything that comes. */
    Result<Subscription> subscribe(std::string_view room, std::uint32_t history = 0) noexcept {
        klatch_subscription_t *subscription = nullptr;
        klatch_error_t *error = klatch_engine_subscribe(get(), detail::in(room), history, &subscription);
        if (error != nullptr) return Error(error);
        return Subscription(subscription, host_);
    }
    /** Listens to a room from a position on; where that is not possible, from the newest `history` publications on. */
    Result<Subscription> subscribe_since(std::string_view room, std::string_view epoch, std::uint64_t offset,
                                         std::uint32_t history = 0) noexcept {
        klatch_subscription_t *subscription = nullptr;
        klatch_error_t *error = klatch_engine_subscribe_since(get(), detail::in(room), detail::in(epoch), offset,
                                                              history, &subscription);
        if (error != nullptr) return Error(error);
        return Subscription(subscription, host_);
    }

    /** Listens to every room: everything that this node delivers from now on. Of it an offset and an epoch mean nothing. */
    Result<Subscription> subscribe_all() noexcept {
        klatch_subscription_t *subscription = nullptr;
        klatch_error_t *error = klatch_engine_subscribe_all(get(), &subscription);
        if (error != nullptr) return Error(error);
        return Subscription(subscription, host_);
    }

    /** The next event; none if none came in time. The error `stopped` once everything has been read. */
    Result<std::optional<Event>> next_event(std::chrono::milliseconds timeout) noexcept {
        klatch_event_t *event = nullptr;
        if (klatch_error_t *error = klatch_engine_next_event(get(), detail::ms(timeout), &event)) return Error(error);
        if (event == nullptr) return std::optional<Event>();
        return std::optional<Event>(Event(event));
    }
    /** A descriptor that is readable while next_event() with a timeout of 0 may have something to give. It stays the engine's. */
    Result<int> event_fd() noexcept {
        std::int32_t fd = -1;
        if (klatch_error_t *error = klatch_engine_event_fd(get(), &fd)) return Error(error);
        return static_cast<int>(fd);
    }
    /** Has `call(const Event *)` called with each event from now on, and once with nullptr: the engine has stopped. */
    template <class F> Result<void> on_event(F &&call) {
        using D = std::decay_t<F>;
        static_assert(std::is_invocable_v<D &, const Event *>, "call(const Event *)");
        return detail::done(klatch_engine_on_event(get(), detail::event<D>,
                                                   detail::Callback<D>::make(std::forward<F>(call), host_),
                                                   detail::Callback<D>::free));
    }
    /** Has nothing called with events any more. */
    Result<void> no_event() noexcept { return detail::done(klatch_engine_on_event(get(), nullptr, nullptr, nullptr)); }

    /** Who is in a room now. */
    Result<Presence> presence(std::string_view room) const noexcept {
        klatch_presence_t *presence = nullptr;
        klatch_error_t *error = klatch_engine_presence(get(), detail::in(room), &presence);
        if (error != nullptr) return Error(error);
        return Presence(presence);
    }
    /** Delivers an event, which is not stored, to a room's members. */
    Result<void> signal(std::string_view room, std::string_view user, std::string_view name, std::string_view json) noexcept {
        return detail::done(
            klatch_engine_signal(get(), detail::in(room), detail::in(user), detail::in(name), detail::in(json)));
    }
    /** Delivers an event, which is not stored, to one connection. */
    Result<void> send(std::string_view connection, std::string_view name, std::string_view json) noexcept {
        return detail::done(klatch_engine_send(get(), detail::in(connection), detail::in(name), detail::in(json)));
    }
    /** Takes a user's connections out of a room, or, without one, closes them. */
    Result<void> kick_user(std::string_view user, std::string_view room = {}) noexcept {
        return detail::done(klatch_engine_kick_user(get(), detail::in(user), detail::in(room)));
    }
    /** The same for one connection. */
    Result<void> kick_connection(std::string_view connection, std::string_view room = {}) noexcept {
        return detail::done(klatch_engine_kick_connection(get(), detail::in(connection), detail::in(room)));
    }

    /** On Kafka: has `call(Publication)`, which says whether it is Handled, called for every publication, as a member of a group. */
    template <class F> Result<Consumer> consume(const Consume &settings, F &&call) {
        using D = std::decay_t<F>;
        static_assert(std::is_invocable_r_v<Handled, D &, Publication>, "Handled call(Publication)");
        if (settings.failed_) return settings.failed_;
        klatch_consumer_t *consumer = nullptr;
        klatch_error_t *error = klatch_engine_consume(get(), settings.get(), detail::handler<D>,
                                                      detail::Callback<D>::make(std::forward<F>(call), host_),
                                                      detail::Callback<D>::free, &consumer);
        if (error != nullptr) return Error(error);
        return Consumer(consumer);
    }

    /** Stops: stores what is queued, tells clients to come back, closes the files. How many publishes were not written in time. */
    Result<std::uint64_t> stop(std::chrono::milliseconds timeout = std::chrono::seconds(10)) noexcept {
        std::uint64_t unwritten = 0;
        if (klatch_error_t *error = klatch_engine_stop(get(), detail::ms(timeout), &unwritten)) return Error(error);
        return unwritten;
    }

private:
    friend class Builder;
    Engine(klatch_engine_t *engine, detail::HostPointer host) noexcept : Object(engine), host_(std::move(host)) {}
    detail::HostPointer host_;
};

/** Settings and hooks of an engine that is to be started. A setting that fails is told by start(). For one thread at a time. */
class Builder : public detail::Object<klatch_builder_t, klatch_builder_free> {
public:
    Builder() : Object(klatch_builder_new()), host_(std::make_shared<detail::Host>()) {}

    /** Where messages are kept: a directory, "memory", or "kafka://host:port/topic". */
    Builder &log(std::string_view log) noexcept { return note(klatch_builder_log(get(), detail::in(log))); }
    /** Adds an address to listen on; port 0 picks a free one. */
    Builder &listen(std::string_view address) noexcept { return note(klatch_builder_listen(get(), detail::in(address))); }
    /** The HTML page at "/". */
    Builder &page(std::string_view html) noexcept { return note(klatch_builder_page(get(), detail::in(html))); }
    /** Sets one key of docs/configuration.md, "limits.publish_rate" for instance. */
    Builder &set(std::string_view key, std::string_view value) noexcept {
        return note(klatch_builder_set(get(), detail::in(key), detail::in(value)));
    }
    /** Replaces all settings by those of a TOML file's text. */
    Builder &toml(std::string_view toml) noexcept { return note(klatch_builder_toml(get(), detail::in(toml))); }
    /** Replaces all settings by those of a JSON object. */
    Builder &json(std::string_view json) noexcept { return note(klatch_builder_json(get(), detail::in(json))); }

    /** Who may connect: `Answer call(const Request &)`, up to four at once. */
    template <class F> Builder &on_connect(F &&call) { return on(klatch_builder_on_connect, std::forward<F>(call)); }
    /** Who may join which room. It needs a connect hook too. */
    template <class F> Builder &on_join(F &&call) { return on(klatch_builder_on_join, std::forward<F>(call)); }
    /** What clients may publish. */
    template <class F> Builder &on_publish(F &&call) { return on(klatch_builder_on_publish, std::forward<F>(call)); }
    /** Is told of callbacks that throw, and of answers of hooks that were refused; from several threads at once. */
    Builder &on_fault(std::function<void(const Fault &)> call) {
        host_->on_fault = std::move(call);
        return *this;
    }

    /** Opens the log, binds the addresses and starts the engine; or tells what failed, here or in a setting before. It can be called once. */
    Result<Engine> start() noexcept {
        if (failed_) return failed_;
        klatch_engine_t *engine = nullptr;
        if (klatch_error_t *error = klatch_builder_start(release(), &engine)) return Error(error);
        return Engine(engine, host_);
    }

private:
    Builder &note(klatch_error_t *error) noexcept {
        Error taken(error);
        if (!failed_) failed_ = taken;
        return *this;
    }
    template <class Set, class F> Builder &on(Set setter, F &&call) {
        using D = std::decay_t<F>;
        static_assert(std::is_invocable_r_v<Answer, D &, const Request &>, "Answer call(const Request &)");
        return note(setter(get(), detail::hook<D>, detail::Callback<D>::make(std::forward<F>(call), host_),
                        detail::Callback<D>::free));
    }

    Error failed_;
    std::shared_ptr<detail::Host> host_;
};

/* The log ------------------------------------------------------------------------------------------------------------------------------ */

/** How much a line of the log matters. */
enum class LogLevel : std::int32_t {
    error = KLATCH_LOG_ERROR,
    warn = KLATCH_LOG_WARN,
    info = KLATCH_LOG_INFO,
    debug = KLATCH_LOG_DEBUG,
};

namespace detail {
template <class F> void line(void *user_data, std::int32_t level, klatch_str_t target, klatch_str_t message) noexcept {
    auto &self = Callback<F>::of(user_data);
    guarded(*self.host, "log", [&] { self.call(static_cast<LogLevel>(level), out(target), out(message)); });
}
} // namespace detail

/** Has `call(LogLevel, std::string_view target, std::string_view message)` called with the log's lines, of all engines. */
template <class F> Result<void> set_log(LogLevel level, F &&call, std::function<void(const Fault &)> on_fault = {}) {
    using D = std::decay_t<F>;
    static_assert(std::is_invocable_v<D &, LogLevel, std::string_view, std::string_view>,
                  "call(LogLevel, std::string_view, std::string_view)");
    auto host = std::make_shared<detail::Host>();
    host->on_fault = std::move(on_fault);
    return detail::done(klatch_log_set(static_cast<std::int32_t>(level), detail::line<D>,
                                       detail::Callback<D>::make(std::forward<F>(call), std::move(host)),
                                       detail::Callback<D>::free));
}

/** Has nothing called with the log's lines any more. */
inline Result<void> no_log() noexcept {
    return detail::done(klatch_log_set(KLATCH_LOG_ERROR, nullptr, nullptr, nullptr));
}

/* What needs what comes after it ------------------------------------------------------------------------------------------------------- */

inline Result<Ack> Outcomes::operator[](std::size_t index) const noexcept {
    return detail::outcome(klatch_outcomes_ack(get(), index), klatch_outcomes_error(get(), index));
}

inline Result<std::optional<Publications>> Subscription::next(std::chrono::milliseconds timeout, std::size_t max) noexcept {
    klatch_publications_t *batch = nullptr;
    klatch_error_t *error = klatch_subscription_next(get(), max, detail::ms(timeout), &batch);
    if (error != nullptr) return Error(error);
    if (batch == nullptr) return std::optional<Publications>();
    return std::optional<Publications>(Publications(batch));
}

template <class F> Result<void> Subscription::on_publications(F &&call) {
    using D = std::decay_t<F>;
    static_assert(std::is_invocable_v<D &, const Publications &, Ended>, "call(const Publications &, Ended)");
    return detail::done(klatch_subscription_on_publications(get(), detail::publications<D>,
                                                            detail::Callback<D>::make(std::forward<F>(call), host_),
                                                            detail::Callback<D>::free));
}

inline Error ConsumerStatus::failed() const noexcept {
    return Error(klatch_consumer_status_failed(get()), detail::Lent());
}

inline Result<ConsumerStatus> Consumer::status() const noexcept {
    klatch_consumer_status_t *status = nullptr;
    if (klatch_error_t *error = klatch_consumer_status(get(), &status)) return Error(error);
    return ConsumerStatus(status);
}

} // namespace klatch

#endif /* KLATCH_HPP */
