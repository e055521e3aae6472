// What the parts of the null GPU share: the log of calls, and the current capture.
//
// The program opens the log with nullgpu_log. Each call that a stream or the host would notice is a line of
// tab-separated fields, read by log.py:
//
//   captured  "captured" if the call is on a stream that is being captured, else "-"
//   unsafe    "unsafe" if a capture forbids the call, else "-"
//   kind      kernel, product, copy, fill; graph, capture, captured-end; sync, query, blocking-copy, host-allocation,
//             device-allocation; record, wait
//   stream, thread, and what was called
#pragma once

#include <stddef.h>

#define API __attribute__((visibility("default")))
typedef int Status;  // 0: done

enum { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };  // cudaStreamCaptureMode

struct Capture {
  void* stream;  // NULL when no stream is captured
  int mode;
  long thread;
  unsigned long long id;
  size_t nodes;
};
extern struct Capture capture;
extern __thread int thread_mode;  // set by cudaThreadExchangeStreamCaptureMode

void* new_handle(void);  // a non-NULL handle for a stream, an event or a descriptor
long this_thread(void);
int is_captured(const void* stream);
int is_forbidden(void);  // whether a capture forbids this thread calls that it cannot record

void tell(const char* kind, void* stream, int unsafe, const char* format, ...);
void work(const char* kind, void* stream, const char* format, ...);  // becomes a node on a captured stream

// A function that does nothing and succeeds.
#define DONE(name) \
  API Status name() { return 0; }
