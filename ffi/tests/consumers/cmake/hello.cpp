#include <klatch.hpp>

#include <iostream>

int main() {
    auto engine = klatch::Builder().log("memory").start();
    if (!engine) return 1;
    if (!engine->publish(klatch::Message::json("lobby", R"("hello")"))) return 1;
    if (!engine->stop()) return 1;
    std::cout << "klatch " << klatch::version() << '\n';
    return 0;
}
