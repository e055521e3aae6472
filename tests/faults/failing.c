/* Lets one call to the operating system fail, of those that concern files under a folder; preloaded by LD_PRELOAD.

   Calls are numbered as they come, in two scopes: those that change something, and those that only look. Nothing is
   counted, and nothing fails, before `faults_arm`. A call that fails does nothing, but for close, which closes all the
   same, as the kernel's does. Built and steered by library.py. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { CHANGES, LOOKS, SCOPES };
enum { MOST_DESCRIPTORS = 4096 };

static struct {
    char root[4096];
    int scope, error, from_then_on; /* error 0: SIGKILL in place of an error */
    long number;
} wanted;
static long calls[SCOPES];
static char failed[8192];                    /* the name and path of the first call that failed */
static char is_under[MOST_DESCRIPTORS];      /* of each descriptor, whether it was opened under the root */

void faults_arm(const char *root, int scope, long number, int error, int from_then_on) {
    snprintf(wanted.root, sizeof wanted.root, "%s", root);
    wanted.scope = scope, wanted.number = number, wanted.error = error, wanted.from_then_on = from_then_on;
}

long faults_calls(int scope) { return calls[scope]; }
const char *faults_failed(void) { return failed; }

static int path_is_under(int folder, const char *path) {
    size_t length = strlen(wanted.root);
    if (!length || !path) return 0;
    if (path[0] == '/') return !strncmp(path, wanted.root, length) && (path[length] == '/' || !path[length]);
    return folder >= 0 && folder < MOST_DESCRIPTORS && is_under[folder];
}

static int descriptor_is_under(int descriptor) { return path_is_under(descriptor, ""); }

static void opened(int descriptor, int under) {
    if (descriptor >= 0 && descriptor < MOST_DESCRIPTORS) is_under[descriptor] = (char)under;
}

/* Whether this call is the one, errno set. */
static int fails(int scope, const char *name, const char *path) {
    long number = ++calls[scope];
    if (scope != wanted.scope || !wanted.number) return 0;
    if (number != wanted.number && !(wanted.from_then_on && number > wanted.number)) return 0;
    if (!*failed) snprintf(failed, sizeof failed, "%s %s", name, path);
    if (!wanted.error) kill(getpid(), SIGKILL);
    errno = wanted.error;
    return 1;
}

#define NEXT(name)                           \
    static __typeof__(&name) next;           \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call that names a path, or a path in a folder that is open. */
#define BY_PATH(scope, result, name, folder, path, parameters, arguments)               \
    result name parameters {                                                            \
        NEXT(name);                                                                     \
        if (path_is_under(folder, path) && fails(scope, #name, path)) return (result)-1; \
        return next arguments;                                                          \
    }

/* A call on something that is open. */
#define BY_DESCRIPTOR(scope, result, name, parameters, arguments)                                \
    result name parameters {                                                                     \
        NEXT(name);                                                                              \
        if (descriptor_is_under(descriptor) && fails(scope, #name, "(a descriptor)")) return -1; \
        return next arguments;                                                                   \
    }

#define OPENING(name, folder, parameters, without_mode, with_mode)                                              \
    int name parameters {                                                                                       \
        NEXT(name);                                                                                             \
        int changes = flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC), under = path_is_under(folder, path);     \
        if (under && fails(changes ? CHANGES : LOOKS, changes ? #name " to write" : #name, path)) return -1;    \
        va_list rest;                                                                                           \
        va_start(rest, flags);                                                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                 \
        va_end(rest);                                                                                           \
        int descriptor = next with_mode;                                                                        \
        opened(descriptor, under);                                                                              \
        return descriptor;                                                                                      \
    }

OPENING(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags), (path, flags, mode))
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags), (path, flags, mode))
OPENING(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags), (folder, path, flags, mode))
OPENING(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags), (folder, path, flags, mode))

int close(int descriptor) {
    NEXT(close);
    int under = descriptor_is_under(descriptor), result;
    opened(descriptor, 0);
    int fail = under && fails(CHANGES, "close", "(a descriptor)"), error = errno;
    result = next(descriptor);
    if (!fail) return result;
    errno = error;
    return -1;
}

BY_DESCRIPTOR(CHANGES, ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size))
BY_DESCRIPTOR(CHANGES, ssize_t, pwrite, (int descriptor, const void *data, size_t size, off_t at), (descriptor, data, size, at))
BY_DESCRIPTOR(CHANGES, ssize_t, pwrite64, (int descriptor, const void *data, size_t size, off64_t at), (descriptor, data, size, at))
BY_DESCRIPTOR(CHANGES, int, fsync, (int descriptor), (descriptor))
BY_DESCRIPTOR(CHANGES, int, fdatasync, (int descriptor), (descriptor))
BY_DESCRIPTOR(CHANGES, int, ftruncate, (int descriptor, off_t size), (descriptor, size))
BY_DESCRIPTOR(CHANGES, int, ftruncate64, (int descriptor, off64_t size), (descriptor, size))
BY_DESCRIPTOR(CHANGES, int, flock, (int descriptor, int operation), (descriptor, operation))
BY_PATH(CHANGES, int, rename, AT_FDCWD, path, (const char *path, const char *to), (path, to))
BY_PATH(CHANGES, int, renameat, folder, path, (int folder, const char *path, int other, const char *to), (folder, path, other, to))
BY_PATH(CHANGES, int, unlink, AT_FDCWD, path, (const char *path), (path))
BY_PATH(CHANGES, int, unlinkat, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
BY_PATH(CHANGES, int, mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
BY_PATH(CHANGES, int, mkdirat, folder, path, (int folder, const char *path, mode_t mode), (folder, path, mode))
BY_PATH(CHANGES, int, rmdir, AT_FDCWD, path, (const char *path), (path))
BY_PATH(CHANGES, int, symlink, AT_FDCWD, path, (const char *to, const char *path), (to, path))
BY_PATH(CHANGES, int, symlinkat, folder, path, (const char *to, int folder, const char *path), (to, folder, path))

BY_DESCRIPTOR(LOOKS, ssize_t, read, (int descriptor, void *data, size_t size), (descriptor, data, size))
BY_DESCRIPTOR(LOOKS, ssize_t, pread, (int descriptor, void *data, size_t size, off_t at), (descriptor, data, size, at))
BY_DESCRIPTOR(LOOKS, ssize_t, pread64, (int descriptor, void *data, size_t size, off64_t at), (descriptor, data, size, at))
BY_DESCRIPTOR(LOOKS, int, fstat, (int descriptor, struct stat *to), (descriptor, to))
BY_DESCRIPTOR(LOOKS, int, fstat64, (int descriptor, struct stat64 *to), (descriptor, to))
BY_PATH(LOOKS, int, stat, AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
BY_PATH(LOOKS, int, stat64, AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
BY_PATH(LOOKS, int, lstat, AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
BY_PATH(LOOKS, int, lstat64, AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
BY_PATH(LOOKS, int, fstatat, folder, path, (int folder, const char *path, struct stat *to, int flags), (folder, path, to, flags))
BY_PATH(LOOKS, int, fstatat64, folder, path, (int folder, const char *path, struct stat64 *to, int flags), (folder, path, to, flags))
BY_PATH(LOOKS, int, statvfs, AT_FDCWD, path, (const char *path, struct statvfs *to), (path, to))
BY_PATH(LOOKS, int, statvfs64, AT_FDCWD, path, (const char *path, struct statvfs64 *to), (path, to))
BY_PATH(LOOKS, ssize_t, readlink, AT_FDCWD, path, (const char *path, char *to, size_t size), (path, to, size))
BY_PATH(LOOKS, ssize_t, readlinkat, folder, path, (int folder, const char *path, char *to, size_t size), (folder, path, to, size))

DIR *opendir(const char *path) {
    NEXT(opendir);
    return path_is_under(AT_FDCWD, path) && fails(LOOKS, "opendir", path) ? NULL : next(path);
}

DIR *fdopendir(int descriptor) {
    NEXT(fdopendir);
    return descriptor_is_under(descriptor) && fails(LOOKS, "fdopendir", "(a descriptor)") ? NULL : next(descriptor);
}

int closedir(DIR *folder) {
    NEXT(closedir);
    opened(dirfd(folder), 0);
    return next(folder);
}
