#define _GNU_SOURCE
#include "log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

struct Capture capture;
__thread int thread_mode = GLOBAL;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE* file;

API void nullgpu_log(const char* path) {
  if (file) fclose(file);
  file = path ? fopen(path, "w") : NULL;
}

void* new_handle(void) {
  static uintptr_t latest = 0x1000;
  return (void*)__sync_add_and_fetch(&latest, 0x10);
}
long this_thread(void) { return syscall(SYS_gettid); }
int is_captured(const void* stream) { return capture.stream && stream == capture.stream; }

int is_forbidden(void) {
  if (!capture.stream || capture.mode == RELAXED || thread_mode == RELAXED) return 0;
  return (capture.mode == GLOBAL && thread_mode == GLOBAL) || capture.thread == this_thread();
}

static void write_line(const char* kind, void* stream, int unsafe, const char* format, va_list arguments) {
  if (!file) return;
  const char* captured = is_captured(stream) ? "captured" : "-";
  fprintf(file, "%s\t%s\t%s\t%p\t%ld\t", captured, unsafe ? "unsafe" : "-", kind, stream, this_thread());
  vfprintf(file, format, arguments);
  fputc('\n', file);
  fflush(file);
}

void tell(const char* kind, void* stream, int unsafe, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  pthread_mutex_lock(&lock);
  write_line(kind, stream, unsafe, format, arguments);
  pthread_mutex_unlock(&lock);
  va_end(arguments);
}

void work(const char* kind, void* stream, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  pthread_mutex_lock(&lock);
  if (is_captured(stream)) capture.nodes++;
  write_line(kind, stream, 0, format, arguments);
  pthread_mutex_unlock(&lock);
  va_end(arguments);
}
