// Scratch memory of calls, and memory for what a forward pass keeps.
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "runtime.h"

namespace fastrnn {

// Scratch memory: one block for each thread that makes calls, reused by its next call unless it is large.

namespace {

constexpr size_t line = 64;

struct Block {
    char* at = nullptr;
    size_t size = 0, used = 0, wanted = 0;
    bool taken = false;

    ~Block() { std::free(at); }
};

thread_local Block block;

char* aligned_up(void* at) {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + line - 1) & ~uintptr_t(line - 1));
}

// Large blocks use huge pages where there are any: a step streams megabytes of packed weights, and with 4 KiB pages TLB
// misses take a tenth of its time.
void* allocate_or_null(size_t bytes) {
#ifdef __linux__
    if (bytes >= huge_page) {
        void* at = nullptr;
        if (posix_memalign(&at, huge_page, bytes)) return nullptr;
        madvise(at, bytes / huge_page * huge_page, MADV_HUGEPAGE);  // only advice: without it nothing else changes
        return at;
    }
#endif
    return std::malloc(bytes);
}

void* allocate(size_t bytes) {
    void* at = allocate_or_null(bytes + line);
    if (!at) throw std::bad_alloc();
    return at;
}

}  // namespace

Workspace::Workspace() : nested(block.taken) {
    if (nested) return;
    block.taken = true;
    block.used = block.wanted = 0;
}

Workspace::~Workspace() {
    for (void* at : more) std::free(at);
    if (nested) return;
    block.taken = false;
    if (block.wanted <= block.size || block.wanted > workspace_bytes) return;
    std::free(block.at);
    block.at = static_cast<char*>(allocate_or_null(block.wanted + line));
    block.size = block.at ? block.wanted : 0;
}

void* Workspace::take_bytes(size_t bytes) {
    bytes = (bytes + line - 1) & ~(line - 1);
    if (!nested) block.wanted += bytes;
    if (!nested && block.used + bytes <= block.size) {
        char* at = aligned_up(block.at) + block.used;
        block.used += bytes;
        return at;
    }
    more.reserve(more.size() + 1);
    more.push_back(allocate(bytes));
    return aligned_up(more.back());
}

// What a forward pass keeps for BPTT: tens of megabytes, which the system would hand out page by page, zeroed, at every
// step of a training loop. Freed blocks wait in a free list for the next forward pass of the same size.

namespace {

class Spare {
  public:
    void* take(size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        for (size_t i = 0; i < blocks.size(); ++i)
            if (blocks[i].size == bytes) {
                void* at = blocks[i].at;
                total -= bytes;
                blocks.erase(blocks.begin() + i);
                return at;
            }
        // Another size: the loop that these blocks were for is over.
        for (const Freed& block : blocks) std::free(block.at);
        blocks.clear();
        total = 0;
        return nullptr;
    }

    void give(void* at, size_t bytes) {
        std::lock_guard<std::mutex> guard(lock);
        if (total + bytes > spare_bytes) return std::free(at);
        blocks.push_back({at, bytes});
        total += bytes;
    }

  private:
    struct Freed {
        void* at;
        size_t size;
    };
    std::mutex lock;
    std::vector<Freed> blocks;
    size_t total = 0;
};

// Never destroyed: arrays may be freed at the very end of the process.
Spare& spare() {
    static Spare* const one = new Spare;
    return *one;
}

}  // namespace

void* take_buffer(size_t bytes) {
    void* at = spare().take(bytes);
    return at ? at : allocate_or_null(bytes);
}

void give_buffer(void* at, size_t bytes) { spare().give(at, bytes); }

}  // namespace fastrnn
