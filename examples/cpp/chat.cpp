/*
 * A small chat server in C++: who may come in, a filter of words, history for those who join, and a thread of the host that reads along.
 *
 *     c++ -std=c++17 chat.cpp -o chat $(pkg-config --cflags --libs klatch) -lpthread
 *     ./chat 127.0.0.1:8080 chat-data
 *
 * Then connect WebSockets to ws://127.0.0.1:8080/ws?user=ann&token=apple (bob's token is banana) and send
 * {"type":"join","room":"lobby","history":20} and {"type":"publish","room":"lobby","id":"1","data":"hello"}. Ctrl-C ends it.
 */
#include <klatch.hpp>

#include <signal.h>

#include <iostream>
#include <map>
#include <string>
#include <thread>

using klatch::Answer;
using klatch::Request;

// Who may connect. Runs on a thread for hooks, of which there are four: it may ask a database, and take its time.
static Answer on_connect(const Request &request) {
    static const std::map<std::string_view, std::string_view> tokens = {{"ann", "apple"}, {"bob", "banana"}};
    const auto known = tokens.find(request.user());
    const bool right = known != tokens.end() && known->second == request.token();
    return right ? Answer::allow() : Answer::deny("wrong name or token");
}

// What clients may publish: words that nobody should read become stars. What is stored is what everybody gets.
static Answer without(const std::string &word, const Request &request) {
    if (request.kind() != klatch::DataKind::json) return Answer::allow();
    std::string clean(request.data());
    for (std::size_t at; (at = clean.find(word)) != std::string::npos;) clean.replace(at, word.size(), word.size(), '*');
    return clean == request.data() ? Answer::allow() : Answer::replace_json(clean);
}

// The host's own thread: what was said before, then what is said, in the order in which everybody gets it.
static void read_along(klatch::Subscription &subscription) {
    while (auto batch = subscription.next(std::chrono::minutes(1))) {
        if (!*batch) continue; // Nothing came.
        for (klatch::Publication p : **batch) std::cout << p.user() << ": " << p.data() << '\n';
        std::cout.flush();
    }
    if (subscription.ended() != klatch::Ended::stopped) std::cerr << "the reader has ended\n";
}

static int serve(const char *address, const char *log, const sigset_t &signals) {
    const std::string word = "darn";
    klatch::Builder builder;
    builder.listen(address).log(log).set("open_users", "true");
    builder.on_connect(on_connect);
    builder.on_publish([word](const Request &request) { return without(word, request); });
    // A hook that throws refuses what it was asked for, and nothing else happens.
    builder.on_fault([](const klatch::Fault &fault) { std::cerr << fault.where << ": " << fault.what << '\n'; });

    // Without exceptions: a result holds the value or the error. With them: builder.start().value().
    auto engine = builder.start();
    if (!engine) {
        std::cerr << "start: " << engine.error().text() << '\n';
        return 1;
    }
    auto lobby = engine->subscribe("lobby", 20);
    if (!lobby) {
        std::cerr << "lobby: " << lobby.error().text() << '\n';
        return 1;
    }
    std::thread reader(read_along, std::ref(*lobby));
    std::cout << "listening on ws://" << engine->address() << "/ws" << std::endl;

    int signal = 0;
    sigwait(&signals, &signal);

    // Stores what is queued and tells the clients to come back; the reader reads to the end.
    const auto stopped = engine->stop(std::chrono::seconds(10));
    reader.join();
    if (!stopped) {
        std::cerr << "stop: " << stopped.error().text() << '\n';
        return 1;
    }
    std::cout << "stopped" << std::endl;
    return 0;
}

int main(int argc, char **argv) {
    // All threads that begin from here on leave Ctrl-C to sigwait() above.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    // What the library has to say for an operator. It never prints by itself.
    const auto log = klatch::set_log(klatch::LogLevel::warn, [](klatch::LogLevel level, std::string_view, std::string_view message) {
        std::cerr << (level == klatch::LogLevel::error ? "error: " : "warning: ") << message << '\n';
    });
    if (!log) return 1;
    const int status = serve(argc > 1 ? argv[1] : "127.0.0.1:8080", argc > 2 ? argv[2] : "chat-data", signals);
    return klatch::no_log() ? status : 1;
}
