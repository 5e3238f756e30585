// A board's top level under Verilator, its serial line driven and sampled bit by bit.
//
// Standard input carries messages: a type byte and a 32-bit little-endian number n. 'D': n bytes follow, to be sent. 'R': from the
// next byte on a bit takes n cycles, both ways. 'B': the line is held low for n cycles. 'P': the reset button is held for n
// cycles. Whatever the board sends goes to standard output as it is. End of input ends the simulation; the number of cycles
// simulated goes to standard error.
#include <poll.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>

#include "Vtop.h"

namespace {
constexpr int POLL_CYCLES = 256;
constexpr uint64_t CONFIGURED = 64;  // cycles after which the line is used: a board's reset is over long before

struct Message {
    char type;
    uint32_t value;  // of 'D': one byte
};

std::deque<Message> messages;
std::string partial;

// Takes what came in; false at the end of input.
bool take(int wait_ms) {
    pollfd input{0, POLLIN, 0};
    if (poll(&input, 1, wait_ms) <= 0) return true;
    char buffer[65536];
    ssize_t size = read(0, buffer, sizeof buffer);
    if (size <= 0) return false;
    partial.append(buffer, size);
    size_t at = 0;
    while (partial.size() - at >= 5) {
        uint32_t value = 0;
        for (int k = 4; k >= 1; --k) value = value << 8 | static_cast<uint8_t>(partial[at + k]);
        const char type = partial[at];
        if (type == 'D') {
            if (partial.size() - at - 5 < value) break;
            for (uint32_t k = 0; k < value; ++k) messages.push_back({type, static_cast<uint8_t>(partial[at + 5 + k])});
            at += value;
        } else {
            messages.push_back({type, value});
        }
        at += 5;
    }
    partial.erase(0, at);
    return true;
}
}  // namespace

int main(int argc, char** argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    Vtop top{&context};
    uint32_t divisor = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 25;
    uint64_t cycles = 0;
    uint32_t send_left = 0, send_bits = 0, send_timer = 0;     // what goes to the board
    uint32_t receive_left = 0, receive_byte = 0, receive_timer = 0;  // what comes from it
    uint32_t held_low = 0, pressed = 0;
    top.UART_RX = 1;
    while (true) {
        if (cycles % POLL_CYCLES == 0 && !take(0)) break;
        // Towards the board
        if (held_low) {
            top.UART_RX = --held_low == 0;
        } else if (send_left == 0 && !messages.empty() && cycles >= CONFIGURED) {
            const Message message = messages.front();
            messages.pop_front();
            if (message.type == 'D') {
                send_bits = 1u << 9 | message.value << 1;
                send_left = 10;
                send_timer = 0;
            } else if (message.type == 'R') {
                divisor = message.value;
            } else if (message.type == 'B') {
                held_low = message.value;
                top.UART_RX = 0;
            } else if (message.type == 'P') {
                pressed = message.value;
            }
        }
        if (send_left && send_timer == 0) {
            top.UART_RX = send_bits & 1;
            send_bits >>= 1;
            send_timer = divisor;
        }
        if (send_timer && --send_timer == 0) --send_left;
        if (pressed) --pressed;
        top.BUTTON = pressed != 0;
        top.CLOCK = 0;
        top.eval();
        top.CLOCK = 1;
        top.eval();
        ++cycles;
        // From the board: each bit is looked at in its middle.
        if (receive_left == 0) {
            if (!top.UART_TX) {
                receive_left = 10;
                receive_timer = divisor / 2;
            }
        } else if (--receive_timer == 0) {
            receive_timer = divisor;
            --receive_left;
            if (receive_left >= 1 && receive_left <= 8) receive_byte = receive_byte >> 1 | static_cast<uint32_t>(top.UART_TX) << 7;
            if (receive_left == 0 && top.UART_TX) {
                const uint8_t byte = receive_byte;
                if (write(1, &byte, 1) != 1) break;
            }
        }
    }
    std::fprintf(stderr, "%llu cycles\n", static_cast<unsigned long long>(cycles));
    top.final();
    return 0;
}
