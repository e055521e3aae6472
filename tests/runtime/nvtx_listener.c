/* A tool that NVTX loads by NVTX_INJECTION64_PATH: it prints what an application pushes and pops, as Nsight would see it.

   The structures are those of NVTX 3, nvtxTypes.h and nvtxDetail/nvtxTypes.h: https://github.com/NVIDIA/NVTX */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CALLBACKS = 1, CORE2 = 5, REGISTERED = 3 };
enum { PUSH = 4, POP = 5, REGISTER_STRING = 10, CREATE_DOMAIN = 12 };

typedef struct {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    uint64_t payload;
    int32_t message_type;
    const char* message;
} Attributes;

typedef struct {
    size_t size;
    int (*functions)(uint32_t module, void**** table, unsigned* size);
} Callbacks;

static void* keep(const char* text) { return strdup(text); } /* a domain and a string are known by their names */

static void* create_domain(const char* name) { return keep(name); }

static void* register_string(void* domain, const char* text) {
    (void)domain;
    return keep(text);
}

static int push(const char* domain, const Attributes* event) {
    return printf("push %s:%s %s\n", domain, event->message, event->message_type == REGISTERED ? "registered" : "copied");
}

static int pop(const char* domain) { return printf("pop %s\n", domain); }

int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
    const Callbacks* callbacks = export_table(CALLBACKS);
    void*** table;
    unsigned size;
    if (!callbacks || !callbacks->functions(CORE2, &table, &size) || size <= CREATE_DOMAIN) {
        return 0;
    }
    *table[PUSH] = (void*)push;
    *table[POP] = (void*)pop;
    *table[REGISTER_STRING] = (void*)register_string;
    *table[CREATE_DOMAIN] = (void*)create_domain;
    return 1;
}
