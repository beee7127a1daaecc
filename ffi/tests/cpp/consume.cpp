// A work consumer on a Kafka topic: prints what it handles, a line each, until it has handled all there is up to this number in each room.
#include <klatch.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

using namespace std::chrono_literals;

template <class T> static T ok(klatch::Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", std::string(result.error().message()).c_str());
        std::abort();
    }
    return std::move(*result);
}

int main(int, char **argv) {
    const unsigned rooms = 6, last = static_cast<unsigned>(std::atoi(argv[2]));
    std::atomic<unsigned> complete{0};
    std::map<std::string, int> tries;

    klatch::Builder builder;
    builder.log(argv[1]).set("kafka.partitions", "4").set("kafka.view_dir", "memory");
    klatch::Engine engine = ok(builder.start());
    klatch::Consume settings("archive in C++");
    settings.retry(1ms, 10ms);
    klatch::Consumer consumer = ok(engine.consume(settings, [&](klatch::Publication p) {
        const std::string room(p.room()), id(p.id());
        // What it throws is an error of the handler's.
        if (id == "m2" && ++tries[room + id] == 1) throw std::runtime_error("not yet");
        if (id == "m4" && ++tries[room + id] == 1) return klatch::Handled::again;
        std::printf("%s %s\n", room.c_str() + 5, id.c_str() + 1);
        if (id == "m" + std::to_string(last)) complete++;
        return klatch::Handled::done;
    }));
    for (int n = 0; complete < rooms || ok(consumer.status()).lag() != 0; n++) {
        if (n == 3000) return 1;
        std::this_thread::sleep_for(20ms);
    }
    const klatch::ConsumerStatus status = ok(consumer.status());
    if (status.retries() != 2 * rooms || !status.last_error().empty() || status.failed()) return 2;
    if (!ok(consumer.stop(60s))) return 3;
    std::puts("ok");
    return 0;
}
