/* Kills the process at its n-th change of the files below a folder.
 *
 * Preloaded, it stands before the C library's calls that create, write, sync,
 * rename and remove. Nothing is counted before kill_at() is called.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_int is_armed, num_seen, fatal;
static int log_fd = -1;

/* Counts from now on; n = 0 never kills. Each change is a line of the log. */
void kill_at(const char *below, int n, const char *log) {
  strncpy(folder, below, sizeof folder - 1);
  log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
  fatal = n;
  num_seen = 0;
  is_armed = 1;
}

static void changes(const char *call, const char *path) {
  if (!is_armed || !path || strncmp(path, folder, strlen(folder))) return;
  int n = ++num_seen;
  dprintf(log_fd, "%d %s %s\n", n, call, path + strlen(folder));
  if (n == fatal) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
}

static void changes_fd(const char *call, int fd) {
  char link[64], path[PATH_MAX];
  if (!is_armed || fd == log_fd) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return;
  path[length] = 0;
  changes(call, path);
}

static void changes_at(const char *call, int dir, const char *name) {
  char link[64], path[2 * PATH_MAX];
  if (!is_armed) return;
  if (dir == AT_FDCWD || name[0] == '/') {
    changes(call, name);
    return;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 0) return;
  snprintf(path + length, PATH_MAX, "/%s", name);
  changes(call, path);
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
    if (flags & (O_CREAT | O_TRUNC)) changes_at("open", dir, path); \
    return next(dir_argument path, flags, mode); \
  }
#define WITH ,
OPEN(open, AT_FDCWD, , )
OPEN(open64, AT_FDCWD, , )
OPEN(openat, at, int at WITH, at WITH)
OPEN(openat64, at, int at WITH, at WITH)

#define ON_FD(type, name, parameters, arguments) \
  type name(int fd parameters) { \
    NEXT(name); \
    changes_fd(#name, fd); \
    return next(fd arguments); \
  }
ON_FD(ssize_t, write, WITH const void *data WITH size_t n, WITH data WITH n)
ON_FD(ssize_t, pwrite, WITH const void *data WITH size_t n WITH off_t at,
      WITH data WITH n WITH at)
ON_FD(ssize_t, pwrite64, WITH const void *data WITH size_t n WITH off64_t at,
      WITH data WITH n WITH at)
ON_FD(ssize_t, writev, WITH const struct iovec *data WITH int n,
      WITH data WITH n)
ON_FD(int, ftruncate, WITH off_t n, WITH n)
ON_FD(int, ftruncate64, WITH off64_t n, WITH n)
ON_FD(int, fsync, , )
ON_FD(int, fdatasync, , )

#define ON_PATH(name, parameters, arguments) \
  int name(const char *path parameters) { \
    NEXT(name); \
    changes(#name, path); \
    return next(path arguments); \
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
  changes_at("unlinkat", dir, path);
  return next(dir, path, flags);
}

int mkdirat(int dir, const char *path, mode_t mode) {
  NEXT(mkdirat);
  changes_at("mkdirat", dir, path);
  return next(dir, path, mode);
}

int renameat(int dir, const char *path, int to_dir, const char *to) {
  NEXT(renameat);
  changes_at("renameat", dir, path);
  return next(dir, path, to_dir, to);
}

int renameat2(int dir, const char *path, int to_dir, const char *to,
              unsigned int flags) {
  NEXT(renameat2);
  changes_at("renameat2", dir, path);
  return next(dir, path, to_dir, to, flags);
}
