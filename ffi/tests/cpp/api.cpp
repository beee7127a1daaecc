// Everything of klatch.hpp once, as it is meant.
#include "check.hpp"

#include <poll.h>

#include <thread>

using namespace std::chrono_literals;
using klatch::Answer;
using klatch::Builder;
using klatch::Engine;
using klatch::Message;
using klatch::Publications;
using klatch::Request;
using klatch::RequestKind;

// In other.cpp, which includes the header too.
std::string said_elsewhere(Engine &engine);

// Of the library, for its tests: the next call panics.
extern "C" void klatch_test_panic(uint32_t calls);

static bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

static bool readable(int fd) {
    pollfd wait = {fd, POLLIN, 0};
    return poll(&wait, 1, 60000) == 1;
}

static void errors() {
    CHECK(klatch::version_number() == KLATCH_VERSION_NUMBER && klatch::abi_version() == KLATCH_ABI_VERSION);
    CHECK(!klatch::version().empty());

    // The first setting that failed is what start() tells, each time.
    Builder builder;
    builder.set("limits.publish_rat", "1").log("memory").set("shards", "many");
    klatch::Result<Engine> engine = builder.start();
    CHECK(!engine && engine.error().code() == KLATCH_ERROR_INVALID_CONFIG && engine.error().name() == "invalid_config");
    CHECK(engine.error().retry() == klatch::Retry::operator_needed && engine.error().retry_after() == 0ms);
    CHECK(has(engine.error().text(), "invalid_config: ") && has(engine.error().message(), "publish_rat"));
    const klatch::Error copy = engine.error();
    engine = Builder().log("memory").start();
    CHECK(copy.code() == KLATCH_ERROR_INVALID_CONFIG && engine && !engine.error() && engine.error().code() == 0);
    CHECK(!builder.start());

    // An exception only for those who ask for the value without having looked.
    klatch::Result<Publications> page = engine->history(std::string_view("\0", 1));
    int code = 0;
    try {
        static_cast<void>(page->size());
    } catch (const klatch::Exception &e) {
        code = e.code();
        CHECK(has(e.what(), "invalid_name: "));
    }
    CHECK(code == KLATCH_ERROR_INVALID_NAME);
    code = 0;
    try {
        engine->kick_connection("nobody").value();
    } catch (const klatch::Exception &e) {
        code = e.code();
    }
    CHECK(code == KLATCH_ERROR_BAD_REQUEST);

    // What was moved from is empty, and what can be moved is not copied.
    static_assert(std::is_nothrow_move_constructible_v<Engine> && !std::is_copy_constructible_v<Engine>);
    static_assert(std::is_nothrow_move_assignable_v<klatch::Subscription> && !std::is_copy_assignable_v<Publications>);
    Engine moved = std::move(*engine);
    CHECK(engine->publish(Message::json("r", "1")).error().code() == KLATCH_ERROR_BAD_REQUEST);
    CHECK(engine->address().empty() && engine->health() == klatch::Health::unknown);
    OK(moved.publish(Message::json("r", "1")));
    moved = OK(Builder().log("memory").start());
    Engine &same = moved;
    moved = std::move(same);
    CHECK(OK(moved.history("r")).empty() && moved.health() == klatch::Health::up);
}

static void publishing(Engine &engine) {
    const klatch::Ack ack = OK(engine.publish(Message::json("lobby", R"({"a":1})").user("ann").id("m-1"), 60s));
    CHECK(ack.offset() == 1 && ack.id() == "m-1" && !ack.duplicate() && ack.epoch().size() == 16);
    CHECK(OK(engine.publish(Message::json("lobby", R"({"a":1})").user("ann").id("m-1"), 60s)).duplicate());
    const auto conflict = engine.publish(Message::json("lobby", "2").user("ann").id("m-1"), 60s);
    CHECK(conflict.error().code() == KLATCH_ERROR_CONFLICT && conflict.error().retry() == klatch::Retry::never);
    OK(engine.publish(Message::bytes("lobby", std::string_view("\0\377", 2)), 60s));

    // A callback that can only be moved; it goes with what it holds.
    Told told;
    auto kept = std::make_unique<std::string>("kept");
    const std::shared_ptr<int> held = std::make_shared<int>(1);
    OK(engine.publish_then(Message::json("lobby", "3").id("then-1"),
                           [&told, kept = std::move(kept), held](const klatch::Result<klatch::Ack> &outcome) {
                               told.add(*kept + " " + std::string(outcome->id()));
                           }));
    told.awaits("kept then-1");
    std::function<void(const klatch::Result<klatch::Ack> &)> failed = [&told](const auto &outcome) {
        told.add(std::string(outcome.error().name()));
    };
    CHECK(engine.publish_then(Message::json("lobby", "4").id("then-1"), failed).error().code() == KLATCH_ERROR_CONFLICT);
    CHECK(!engine.publish_then(Message::json("", "4"), failed));

    klatch::Batch batch;
    for (const char *id : {"b-1", "b-2", "b-1"}) OK(batch.add(Message::json("pages", std::string(1, id[2])).id(id)));
    OK(batch.add(Message::json("pages", "3").id("b-2")));
    CHECK(batch.add(Message::json("\377", "1")).error().code() == KLATCH_ERROR_INVALID_NAME);
    const klatch::Outcomes outcomes = OK(engine.publish(batch, 60s));
    CHECK(outcomes.size() == 4 && outcomes[0]->offset() < outcomes[1]->offset() && outcomes[2]->duplicate());
    CHECK(outcomes[3].error().code() == KLATCH_ERROR_CONFLICT && !outcomes[4]);
}

static void reading(Engine &engine) {
    const Publications page = OK(engine.history("lobby"));
    CHECK(page.size() == 3 && page[0].data() == R"({"a":1})" && page[0].user() == "ann" && page[0].id() == "m-1");
    CHECK(page[1].kind() == klatch::DataKind::binary && page[1].data() == std::string_view("\0\377", 2));
    CHECK(page[1].prev() == page[0].offset() && page[9].room().empty() && page.last() == page[2].offset());
    CHECK(page[0].time() > std::chrono::system_clock::time_point(1'000'000'000s) && page[0].room() == "lobby");
    std::string all;
    // The page lives as long as the loop, though the result that it came in does not.
    for (klatch::Publication p : *engine.history("lobby")) all += std::string(p.id()).substr(0, 1);
    CHECK(all == "m~t");
    all.clear();
    for (klatch::Publication p : page) all += std::to_string(p.offset()) + ",";
    CHECK(all == "1,2,3,");
    klatch::History newest;
    newest.backward = true;
    newest.limit = 1;
    const Publications one = OK(engine.history("lobby", newest));
    CHECK(one.size() == 1 && one.more() && one[0].data() == "3" && one.epoch() == page.epoch());

    klatch::Subscription subscription = OK(engine.subscribe("pages", 50));
    const int fd = OK(subscription.fd());
    CHECK(readable(fd));
    std::optional<Publications> first = OK(subscription.next(0ms));
    CHECK(first && first->size() == 2 && (*first)[1].id() == "b-2" && !OK(subscription.next(1ms)));
    CHECK(subscription.ended() == klatch::Ended::not_yet && subscription.offset() == (*first)[1].offset());
    klatch::Subscription since = OK(engine.subscribe_since("pages", subscription.epoch(), (*first)[0].offset()));
    CHECK(since.recovered() && OK(since.next(60s))->size() == 1);

    Told told;
    Publications kept(nullptr);
    OK(since.on_publications([&](const Publications &batch, klatch::Ended ended) {
        for (klatch::Publication p : batch) {
            kept = batch.clone();
            told.add(std::string(p.data()));
        }
        if (ended != klatch::Ended::not_yet) told.add("ended");
    }));
    CHECK(since.next(0ms).error().code() == KLATCH_ERROR_BUSY);
    OK(engine.publish(Message::json("pages", "5"), 60s));
    told.awaits("5");
    klatch::Subscription everything = OK(engine.subscribe_all());
    since = OK(engine.subscribe("elsewhere"));
    CHECK(kept.size() == 1 && kept[0].data() == "5");
    OK(engine.publish(Message::json("elsewhere", "6"), 60s));
    CHECK((*OK(everything.next(60s)))[0].room() == "elsewhere");
    CHECK((*OK(since.next(60s)))[0].data() == "6" && said_elsewhere(engine) == "6");
}

static void work(Engine &engine) {
    klatch::Consume settings("workers");
    settings.threads(2).from_end().retry(10ms, 1s).release(1s).property("client.id", "test");
    const auto consumer = engine.consume(settings, [](klatch::Publication) { return klatch::Handled::done; });
    CHECK(consumer.error().code() == KLATCH_ERROR_UNSUPPORTED);
    klatch::Consume wrong("\377");
    wrong.threads(2);
    CHECK(engine.consume(wrong, [](klatch::Publication) { return klatch::Handled::done; }).error().code() ==
          KLATCH_ERROR_INVALID_NAME);
    // There is no broker: this shows only that they compile, and that what is empty answers.
    klatch::Consumer none(nullptr);
    CHECK(!none.status() && !none.stop(1s));
    const klatch::ConsumerStatus status(nullptr);
    CHECK(status.partitions() + status.lag() + status.handled() + status.retries() + status.skipped() + status.resets() == 0);
    CHECK(status.last_error().empty() && !status.failed());
}

static void people(Engine &engine, Told &faults) {
    const int fd = OK(engine.event_fd());
    CHECK(!OK(engine.next_event(0ms)));
    Client bob(engine, "room=lobby&token=bob");
    bob.awaits("\"joined\"");
    CHECK(readable(fd));
    const klatch::Event connected = *OK(engine.next_event(60s));
    CHECK(connected.kind() == klatch::EventKind::connected && connected.user() == "bob");
    CHECK(has(connected.address(), "127.0.0.1:") && connected.room().empty());
    const klatch::Event joined = *OK(engine.next_event(60s));
    CHECK(joined.kind() == klatch::EventKind::joined && joined.room() == "lobby");
    CHECK(joined.connection() == connected.connection() && joined.clone().user() == "bob" && joined.count() == 0);

    const klatch::Presence presence = OK(engine.presence("lobby"));
    CHECK(presence.count() == 1 && presence.size() == 1 && presence.user(0) == "bob" && !presence.truncated());
    CHECK(presence.connections(0) == 1 && presence.user(1).empty());
    OK(engine.signal("lobby", "ann", "typing", "true"));
    bob.awaits("\"typing\"");
    OK(engine.send(connected.connection(), "hint", "[1]"));
    bob.awaits("\"hint\"");

    // The hooks: what they decide, at once and later, and what becomes of those that throw.
    bob.says(R"({"type":"publish","room":"lobby","ref":1,"id":"p1","data":"bad"})");
    CHECK(has(bob.awaits("\"ref\":1"), "mind your language"));
    bob.says(R"({"type":"publish","room":"lobby","ref":2,"id":"p2","data":"later"})");
    bob.awaits("\"data\":\"***\"");
    bob.says(R"({"type":"publish","room":"lobby","ref":3,"id":"p3","data":"bytes"})");
    bob.awaits("\"bytes\":\"AAE=\"");
    bob.says(R"({"type":"publish","room":"lobby","ref":4,"id":"p4","data":"throw"})");
    CHECK(has(bob.awaits("\"ref\":4"), "\"internal\""));
    faults.awaits("publish hook: thrown");
    bob.says(R"({"type":"publish","room":"lobby","ref":5,"id":"p5","data":"throw 7"})");
    CHECK(has(bob.awaits("\"ref\":5"), "\"internal\""));
    faults.awaits("publish hook: not a std::exception");
    bob.says(R"({"type":"publish","room":"lobby","ref":6,"id":"p6","data":"wrong"})");
    CHECK(has(bob.awaits("\"ref\":6"), "\"internal\""));
    bob.says(R"({"type":"publish","room":"lobby","ref":7,"id":"p7","data":"forget"})");
    CHECK(has(bob.awaits("\"ref\":7"), "\"internal\""));
    bob.says(R"({"type":"join","room":"closed","ref":8})");
    CHECK(has(bob.awaits("\"ref\":8"), "not this room"));
    Client denied(engine, "room=lobby&token=no");
    denied.awaits("not you");
    Client thrown(engine, "room=lobby&token=throw");
    thrown.awaits("close 4");
    faults.awaits("connect hook: thrown");

    Told told;
    OK(engine.on_event([&told](const klatch::Event *event) {
        if (event != nullptr) told.add(std::to_string(static_cast<int>(event->kind())) + " " + std::string(event->reason()));
    }));
    OK(engine.kick_user("bob", "lobby"));
    bob.awaits("\"left\"");
    told.awaits("4 ");
    OK(engine.no_event());
    const std::size_t before = told.count();
    OK(engine.kick_connection(connected.connection()));
    bob.awaits("close 4500");
    while (OK(engine.next_event(60s))->kind() != klatch::EventKind::disconnected) {}
    CHECK(told.count() == before);
    OK(engine.kick_user("nobody"));
}

static void running() {
    Told faults, lines;
    OK(klatch::set_log(klatch::LogLevel::info,
                       [&lines](klatch::LogLevel level, std::string_view target, std::string_view message) {
                           if (level != klatch::LogLevel::error || !has(message, "panic")) return;
                           lines.add("error " + std::string(target.substr(0, 6)));
                           throw std::runtime_error("in the log");
                       },
                       [&lines](const klatch::Fault &fault) { lines.add(std::string(fault.what)); }));
    Builder builder;
    builder.toml("log = \"klatch-data\"").json(R"({"log": "memory"})").set("shards", "1").page("<p>hello");
    builder.listen("127.0.0.1:0").log("memory");
    builder.on_fault([&faults](const klatch::Fault &fault) {
        faults.add(std::string(fault.where) + ": " + std::string(fault.what));
        throw std::runtime_error("a handler that throws too");
    });
    builder.on_connect([](const Request &request) -> Answer {
        CHECK(request.what() == RequestKind::connect && has(request.address(), "127.0.0.1:"));
        if (request.token() == "no") return Answer::deny("not you");
        if (request.token() == "throw") throw std::runtime_error("thrown");
        return Answer::allow_as(request.token());
    });
    std::function<Answer(const Request &)> on_join = [](const Request &request) {
        CHECK(request.what() == RequestKind::join && !request.connection().empty());
        return request.room() == "closed" ? Answer::deny("not this room") : Answer::allow();
    };
    builder.on_join(on_join);
    builder.on_publish([](const Request &request) -> Answer {
        CHECK(request.kind() == klatch::DataKind::json && request.user() == "bob" && request.id()[0] == 'p');
        if (request.data() == "\"bad\"") return Answer::deny("mind your language");
        if (request.data() == "\"throw\"") throw std::runtime_error("thrown");
        if (request.data() == "\"throw 7\"") throw 7;
        if (request.data() == "\"wrong\"") return Answer::allow_as("eve");
        if (request.data() == "\"bytes\"") return Answer::replace_bytes(std::string_view("\0\1", 2));
        if (request.data() == "\"forget\"") return Answer::later();
        if (request.data() == "\"later\"") {
            std::thread([kept = OK(request.keep())]() mutable {
                OK(kept.answer(Answer::replace_json("\"***\"")));
                CHECK(!kept.answer(Answer::allow()) && kept.user() == "bob");
            }).detach();
            return Answer::later();
        }
        return Answer::allow();
    });
    Engine engine = OK(builder.start());
    CHECK(engine.address_count() == 1 && engine.port() != 0 && has(engine.address(), std::to_string(engine.port())));
    publishing(engine);
    reading(engine);
    work(engine);
    people(engine, faults);
    faults.awaits("publish hook: bad_request: a request of this kind has no such answer");
    CHECK(has(OK(engine.metrics()), "# TYPE "));
    klatch_test_panic(1);
    CHECK(engine.presence("lobby").error().code() == KLATCH_ERROR_INTERNAL);
    lines.awaits("in the log");
    klatch::Subscription open = OK(engine.subscribe("lobby"));
    CHECK(OK(engine.stop(60s)) == 0 && engine.health() == klatch::Health::stopped);
    CHECK(open.next(60s).error().code() == KLATCH_ERROR_ENDED && open.ended() == klatch::Ended::stopped);
    while (const auto event = engine.next_event(60s)) CHECK(event->has_value());
    CHECK(engine.next_event(60s).error().code() == KLATCH_ERROR_STOPPED);
    OK(klatch::no_log());
    lines.awaits("error klatch");
}

int main() {
    errors();
    running();
    std::puts("ok");
    return 0;
}
