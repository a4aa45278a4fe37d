/* Keeps, of every file whose path starts with $CUT_WATCH, a copy in $CUT_DISK as it was at its last fsync: what a disk
   holds after a power cut that loses everything else. A removal reaches the disk with the next fsync, as on file systems
   with a journal. At synchronization number $CUT_AT the process is killed: before
   the copy is made if $CUT_BEFORE is 1, otherwise after it. Each synchronization takes $CUT_DELAY more microseconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static long count = 0;
static char removed[64][PATH_MAX];
static int removals = 0;

static int is_watched(const char *path) {
    const char *watch = getenv("CUT_WATCH");
    return watch && !strncmp(path, watch, strlen(watch));
}

static void name_on_disk(char *name, const char *path, const char *suffix) {
    snprintf(name, PATH_MAX, "%s/%s%s", getenv("CUT_DISK"), strrchr(path, '/') + 1, suffix);
}

static void copy_to_disk(const char *path) {
    char partial[PATH_MAX], whole[PATH_MAX], buffer[1 << 16];
    name_on_disk(whole, path, "");
    name_on_disk(partial, path, ".partial");
    for (; removals; removals--) unlink(removed[removals - 1]);
    int from = open(path, O_RDONLY), to = open(partial, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ssize_t size;
    while ((size = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, size) != size) abort();
    close(from);
    close(to);
    rename(partial, whole);
}

static int synchronize(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (!is_watched(path)) return real(fd);
    pthread_mutex_lock(&one_at_a_time);
    int last = ++count == atol(getenv("CUT_AT"));
    if (last && !strcmp(getenv("CUT_BEFORE"), "1")) kill(getpid(), SIGKILL);
    int result = real(fd);
    copy_to_disk(path);
    if (last) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&one_at_a_time);
    if (getenv("CUT_DELAY")) usleep(atol(getenv("CUT_DELAY")));
    return result;
}

int fsync(int fd) { return synchronize("fsync", fd); }
int fdatasync(int fd) { return synchronize("fdatasync", fd); }

int unlink(const char *path) {
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    if (is_watched(path)) {
        pthread_mutex_lock(&one_at_a_time);
        if (removals < 64) name_on_disk(removed[removals++], path, "");
        pthread_mutex_unlock(&one_at_a_time);
    }
    return real(path);
}
