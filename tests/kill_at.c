/* Kills the process at its n-th change of the files below a folder.
 *
 * Preloaded, it stands before the C library's calls that create, write, sync,
 * rename and remove. Nothing is counted before kill_at() is called. From then
 * on threads make their changes one after the other, so that at the n-th all
 * those before it are made, and none behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_int is_armed;
static int num_seen, fatal, log_fd = -1;
static pthread_mutex_t turn = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* Counts from now on; n = 0 never kills. Each change is a line of the log. */
void kill_at(const char *below, int n, const char *log) {
  strncpy(folder, below, sizeof folder - 1);
  log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_TRUNC, 0600);
  fatal = n;
  num_seen = 0;
  is_armed = 1;
}

/* Counts a change and waits for its turn; returns whether over() must follow. */
static int changes(const char *call, const char *path) {
  if (!is_armed || !path || strncmp(path, folder, strlen(folder))) return 0;
  pthread_mutex_lock(&turn);
  dprintf(log_fd, "%d %s %s\n", ++num_seen, call, path + strlen(folder));
  if (num_seen == fatal) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  return 1;
}

static void over(int is_counted) {
  if (is_counted) pthread_mutex_unlock(&turn);
}

static int changes_fd(const char *call, int fd) {
  char link[64], path[PATH_MAX];
  if (!is_armed || fd == log_fd) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return changes(call, path);
}

static int changes_at(const char *call, int dir, const char *name) {
  char link[64], path[2 * PATH_MAX];
  if (!is_armed) return 0;
  if (dir == AT_FDCWD || name[0] == '/') return changes(call, name);
  snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 0) return 0;
  snprintf(path + length, PATH_MAX, "/%s", name);
  return changes(call, path);
}

#define NEXT(name) \
  static typeof(name) *next; \
  if (!next) next = dlsym(RTLD_NEXT, #name)

#define OPEN(name, dir, dir_parameter, dir_argument) \
  int name(dir_parameter const char *path, int flags, ...) { \
    NEXT(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    int counted = \
        flags & (O_CREAT | O_TRUNC) ? changes_at("open", dir, path) : 0; \
    int result = next(dir_argument path, flags, mode); \
    over(counted); \
    return result; \
  }
#define WITH ,
OPEN(open, AT_FDCWD, , )
OPEN(open64, AT_FDCWD, , )
OPEN(openat, at, int at WITH, at WITH)
OPEN(openat64, at, int at WITH, at WITH)

#define ON_FD(type, name, parameters, arguments) \
  type name(int fd parameters) { \
    NEXT(name); \
    int counted = changes_fd(#name, fd); \
    type result = next(fd arguments); \
    over(counted); \
    return result; \
  }
ON_FD(ssize_t, write, WITH const void *data WITH size_t n, WITH data WITH n)
ON_FD(ssize_t, pwrite, WITH const void *data WITH size_t n WITH off_t at,
      WITH data WITH n WITH at)
ON_FD(ssize_t, pwrite64, WITH const void *data WITH size_t n WITH off64_t at,
      WITH data WITH n WITH at)
ON_FD(ssize_t, writev, WITH const struct iovec *data WITH int n,
      WITH data WITH n)
ON_FD(ssize_t, sendfile, WITH int from WITH off_t *at WITH size_t n,
      WITH from WITH at WITH n)
ON_FD(ssize_t, sendfile64, WITH int from WITH off64_t *at WITH size_t n,
      WITH from WITH at WITH n)
ON_FD(int, ftruncate, WITH off_t n, WITH n)
ON_FD(int, ftruncate64, WITH off64_t n, WITH n)
ON_FD(int, fsync, , )
ON_FD(int, fdatasync, , )

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at,
                        size_t n, unsigned int flags) {
  NEXT(copy_file_range);
  int counted = changes_fd("copy_file_range", to);
  ssize_t result = next(from, from_at, to, to_at, n, flags);
  over(counted);
  return result;
}

#define ON_PATH(name, parameters, arguments) \
  int name(const char *path parameters) { \
    NEXT(name); \
    int counted = changes(#name, path); \
    int result = next(path arguments); \
    over(counted); \
    return result; \
  }
ON_PATH(mkdir, WITH mode_t mode, WITH mode)
ON_PATH(rmdir, , )
ON_PATH(unlink, , )
ON_PATH(remove, , )
ON_PATH(rename, WITH const char *to, WITH to)
ON_PATH(link, WITH const char *to, WITH to)
ON_PATH(truncate, WITH off_t n, WITH n)

int unlinkat(int dir, const char *path, int flags) {
  NEXT(unlinkat);
  int counted = changes_at("unlinkat", dir, path);
  int result = next(dir, path, flags);
  over(counted);
  return result;
}

int mkdirat(int dir, const char *path, mode_t mode) {
  NEXT(mkdirat);
  int counted = changes_at("mkdirat", dir, path);
  int result = next(dir, path, mode);
  over(counted);
  return result;
}

int renameat(int dir, const char *path, int to_dir, const char *to) {
  NEXT(renameat);
  int counted = changes_at("renameat", dir, path);
  int result = next(dir, path, to_dir, to);
  over(counted);
  return result;
}

int renameat2(int dir, const char *path, int to_dir, const char *to,
              unsigned int flags) {
  NEXT(renameat2);
  int counted = changes_at("renameat2", dir, path);
  int result = next(dir, path, to_dir, to, flags);
  over(counted);
  return result;
}
