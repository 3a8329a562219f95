/* Preloaded into a process: lets one of its system calls on certain files fail.
 *
 * FAULT_CALL   write, sync or truncate
 * FAULT_PATH   only on files in whose path this is
 * FAULT_AT     which of these calls, from 1
 * FAULT_ERROR  the error's number; of a write, half has been written all the same
 * FAULT_TOLD   a file into which, when it happens, the path is written
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int calls;

static int is_due(const char *call, int fd) {
    const char *wanted = getenv("FAULT_CALL");
    if (!wanted || strcmp(wanted, call) != 0) {
        return 0;
    }
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) {
        return 0;
    }
    path[length] = 0;
    if (!strstr(path, getenv("FAULT_PATH")) || atomic_fetch_add(&calls, 1) + 1 != atoi(getenv("FAULT_AT"))) {
        return 0;
    }
    FILE *told = fopen(getenv("FAULT_TOLD"), "w");
    if (!told || fputs(path, told) < 0 || fclose(told) != 0) {
        abort();
    }
    return 1;
}

static int fail(void) {
    errno = atoi(getenv("FAULT_ERROR"));
    return -1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t length) {
    if (!is_due("write", fd)) {
        return NEXT(write)(fd, bytes, length);
    }
    if (NEXT(write)(fd, bytes, length / 2) < 0) {
        abort();
    }
    return fail();
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    if (!is_due("write", fd)) {
        return NEXT(pwrite64)(fd, bytes, length, offset);
    }
    if (NEXT(pwrite64)(fd, bytes, length / 2, offset) < 0) {
        abort();
    }
    return fail();
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

int fsync(int fd) {
    return is_due("sync", fd) ? fail() : NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    return is_due("sync", fd) ? fail() : NEXT(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t length) {
    return is_due("truncate", fd) ? fail() : NEXT(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}
