// R23: from each callback the engine is stopped, what it is called for is freed, something is published and waited for, and the callback
// is replaced; and each throws. All of it works, or is the error would_deadlock, and nothing hangs.
#include "check.hpp"

using namespace std::chrono_literals;
using klatch::Answer;
using klatch::Builder;
using klatch::Engine;
using klatch::Message;

static Told faults;

// A message whose outcome is waited for: this thread may not wait for it only where the engine would wait for itself.
static void publish(Engine &engine, bool may_wait) {
    const auto ack = engine.publish(Message::json("other", "1"), 60s);
    if (may_wait) CHECK(ack.ok());
    else CHECK(ack.ok() || ack.error().code() == KLATCH_ERROR_WOULD_DEADLOCK);
}

static std::unique_ptr<Engine> start(Builder builder) {
    builder.log("memory").listen("127.0.0.1:0").set("shards", "1");
    builder.on_fault([](const klatch::Fault &fault) { faults.add(std::string(fault.where) + ": " + std::string(fault.what)); });
    return std::make_unique<Engine>(OK(builder.start()));
}

// The engine is freed in its own callback.
static void in_event() {
    Told told;
    std::unique_ptr<Engine> engine = start(Builder());
    Engine &used = *engine;
    OK(used.on_event([&](const klatch::Event *event) {
        if (event == nullptr || event->kind() != klatch::EventKind::connected) return;
        publish(used, true);
        OK(used.on_event([&](const klatch::Event *) {}));
        OK(used.stop(10s));
        engine.reset();
        told.add("freed");
        throw std::runtime_error("in an event");
    }));
    Client client(used, "room=lobby");
    told.awaits("freed");
    faults.awaits("event: in an event");
}

static void in_publications() {
    Told told;
    std::unique_ptr<Engine> engine = start(Builder());
    auto subscription = std::make_unique<klatch::Subscription>(OK(engine->subscribe("lobby")));
    auto *used = subscription.get();
    OK(used->on_publications([&](const klatch::Publications &batch, klatch::Ended) {
        if (batch.empty()) return;
        publish(*engine, true);
        CHECK(!used->on_publications([](const klatch::Publications &, klatch::Ended) {}));
        subscription.reset();
        OK(engine->stop(10s));
        engine.reset();
        told.add("freed");
        throw std::runtime_error("in publications");
    }));
    OK(engine->publish_then(Message::json("lobby", "1"), [](const auto &) {}));
    told.awaits("freed");
    faults.awaits("publications: in publications");
}

// On disk, so that the outcome is told on the thread that stores.
static void in_published() {
    Told told;
    std::unique_ptr<Engine> engine = std::make_unique<Engine>(OK(Builder().log("published").set("shards", "1").start()));
    OK(engine->publish_then(Message::json("lobby", "1"), [&](const klatch::Result<klatch::Ack> &outcome) {
        CHECK(outcome.ok());
        CHECK(engine->stop(10s).error().code() == KLATCH_ERROR_WOULD_DEADLOCK);
        publish(*engine, false);
        engine.reset();
        told.add("freed");
        throw std::runtime_error("in published");
    }));
    told.awaits("freed");
}

static void in_hook() {
    Told told;
    std::unique_ptr<Engine> engine;
    Builder builder;
    builder.on_connect([&](const klatch::Request &) {
        publish(*engine, true);
        OK(engine->stop(10s));
        engine.reset();
        told.add("freed");
        return Answer::allow();
    });
    engine = start(std::move(builder));
    struct client *client = client_new(engine->get(), "room=lobby&user=ann");
    told.awaits("freed");
    client_free(client);
}

// What a callback holds goes once, when it is not called any more.
static void freed() {
    const std::shared_ptr<int> held = std::make_shared<int>(1);
    {
        Builder builder;
        builder.on_connect([held](const klatch::Request &) { return Answer::allow(); });
        CHECK(held.use_count() == 2);
        std::unique_ptr<Engine> engine = start(std::move(builder));
        klatch::Subscription subscription = OK(engine->subscribe("lobby"));
        OK(subscription.on_publications([held](const klatch::Publications &, klatch::Ended) {}));
        OK(engine->on_event([held](const klatch::Event *) {}));
        CHECK(!engine->publish_then(Message::json("", "1"), [held](const auto &) {}));
        CHECK(!engine->consume(klatch::Consume(), [held](klatch::Publication) { return klatch::Handled::done; }));
        CHECK(held.use_count() == 4);
        OK(engine->no_event());
        CHECK(held.use_count() == 3);
    }
    CHECK(held.use_count() == 1);
    Builder().on_publish([held](const klatch::Request &) { return Answer::allow(); });
    CHECK(held.use_count() == 1);
}

int main() {
    in_event();
    in_publications();
    in_published();
    in_hook();
    freed();
    std::puts("ok");
    return 0;
}
