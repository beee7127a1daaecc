// A second translation unit with the header.
#include "check.hpp"

#include <klatch.hpp>

std::string said_elsewhere(klatch::Engine &engine);

std::string said_elsewhere(klatch::Engine &engine) {
    std::string all;
    for (klatch::Publication p : OK(engine.history("elsewhere"))) all += p.data();
    return all;
}
