// What the C++ test programs share.
#ifndef CHECK_HPP
#define CHECK_HPP

#include "client.h"

#include <klatch.hpp>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define CHECK(...)                                                                                                     \
    do {                                                                                                               \
        if (!(__VA_ARGS__)) {                                                                                          \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__);                             \
            std::abort();                                                                                              \
        }                                                                                                              \
    } while (0)

// What a result holds, which must not be an error.
#define OK(call) check_ok(call, __FILE__, __LINE__)

// Everything that is waited for comes within this, or the test has failed. Valgrind and sanitizers are slow.
constexpr std::chrono::seconds PATIENCE(60);

template <class T> T check_ok(klatch::Result<T> result, const char *file, int line) {
    if (!result) {
        std::fprintf(stderr, "%s:%d: %s\n", file, line, result.error().text().c_str());
        std::abort();
    }
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

struct ClientFree {
    void operator()(client *of) const { client_free(of); }
};

class Client {
public:
    Client(const klatch::Engine &engine, const char *query) : of_(client_new(engine.get(), query)) {}
    std::string awaits(const char *part) { return client_awaits(of_.get(), part); }
    void says(const std::string &text) { client_says(of_.get(), text.c_str()); }

private:
    std::unique_ptr<client, ClientFree> of_;
};

// What callbacks were told, in order, for a thread that waits for it.
class Told {
public:
    void add(std::string what) {
        const std::lock_guard<std::mutex> lock(mutex_);
        all_.push_back(std::move(what));
        changed_.notify_all();
    }
    // Waits until this has been told.
    void awaits(const std::string &what) {
        std::unique_lock<std::mutex> lock(mutex_);
        const bool came = changed_.wait_for(lock, PATIENCE, [&] {
            for (const std::string &one : all_)
                if (one == what) return true;
            return false;
        });
        if (came) return;
        std::fprintf(stderr, "never told: %s; but", what.c_str());
        for (const std::string &one : all_) std::fprintf(stderr, " [%s]", one.c_str());
        std::abort();
    }
    std::size_t count() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return all_.size();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::string> all_;
};

#endif
