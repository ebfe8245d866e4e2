/*
 * Writes down, for the files below one folder, what a power cut would undo.
 *
 * Loaded with LD_PRELOAD. Everything a program does goes to the disk as usual; beside it grows a log from which
 * the folder can be put back to what was synced. `mod.rs` beside this file starts programs under it and reads the
 * log.
 *
 * - Before bytes of a file change, the old bytes go to the log (a pre-image). A sync of the file cancels all its
 *   pre-images that were there when the sync began.
 * - Names are not watched one by one. A sync of a folder writes the list of what is in it to the log, and only the
 *   last such list of each folder survives. So renames, links and removals are modelled however they are done.
 * - Each file gets a second name in `inodes/`, by which it is found when the power cut brings it back, and which
 *   keeps its number from being given to another file.
 *
 * What would slip past this (a writable shared mapping, copies inside the kernel, writes by raw system call, O_SYNC)
 * stops the program with a message, so that a test never passes on a model that does not fit.
 *
 * POWERCUT_ROOT: the folder, absolute and without symbolic links. POWERCUT_SIDE: where the log goes, on the same
 * file system. While a file `full` stands in there, the disk is full. One process at a time (a child, while its
 * parent waits for it).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Must be what mod.rs reads. */
struct record {
    uint32_t magic;
    uint32_t kind;
    uint64_t inode;
    uint64_t offset;
    uint64_t extent;
    uint64_t size;
    uint64_t data_length;
};
#define RECORD_MAGIC 0x50435554u
enum kind {
    /* `extent` bytes at `offset` are about to change in a file of `size` bytes; data: what was there. */
    KIND_WRITE = 1,
    /* The same, and what was there is all zeros. */
    KIND_WRITE_ZEROS = 2,
    /* The file of `size` bytes is about to have `offset` bytes; data: what is cut off. */
    KIND_RESIZE = 3,
    /* All of the file before log position `offset` is on disk. */
    KIND_SYNC_FILE = 4,
    /* The entries in data are on disk; they were read at log position `offset`. */
    KIND_SYNC_FOLDER = 5,
};

#define INODES_MAX (1u << 18)
#define FOLDERS_MAX (1u << 12)

static int active;
static char root[PATH_MAX];
static size_t root_length;
static char side[PATH_MAX];
static dev_t root_device;
static int log_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t inodes[INODES_MAX];
static uint64_t folders[FOLDERS_MAX];

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_pwritev2)(int, const struct iovec *, int, off_t, int);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_ftruncate)(int, off_t);
static int (*real_truncate)(const char *, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static ssize_t (*real_copy_file_range)(int, off_t *, int, off_t *, size_t, unsigned);
static ssize_t (*real_sendfile)(int, int, off_t *, size_t);
static ssize_t (*real_splice)(int, off_t *, int, off_t *, size_t, unsigned);
static long (*real_syscall)(long, ...);

static void find_real(void) {
    static int found;
    if (found)
        return;
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
    real_pwritev2 = dlsym(RTLD_NEXT, "pwritev64v2");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_truncate = dlsym(RTLD_NEXT, "truncate64");
    real_fallocate = dlsym(RTLD_NEXT, "fallocate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_mmap = dlsym(RTLD_NEXT, "mmap64");
    real_copy_file_range = dlsym(RTLD_NEXT, "copy_file_range");
    real_sendfile = dlsym(RTLD_NEXT, "sendfile64");
    real_splice = dlsym(RTLD_NEXT, "splice");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    found = 1;
}

static void die(const char *what, const char *about) {
    char line[PATH_MAX + 256];
    int length = snprintf(line, sizeof line, "powercut: %s: %s (%s)\n", what, about, strerror(errno));
    if (length > 0)
        (void)!real_write(2, line, (size_t)length);
    abort();
}

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) {
    int kept = errno;
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

/* Open addressing; 0 is free, and no inode has that number. Returns 1 when it was there. */
static int table_find(const uint64_t *table, unsigned size, uint64_t number) {
    unsigned slot = (unsigned)(number * 0x9E3779B97F4A7C15u >> 40) & (size - 1);
    while (table[slot] != 0) {
        if (table[slot] == number)
            return 1;
        slot = (slot + 1) & (size - 1);
    }
    return 0;
}

static void table_add(uint64_t *table, unsigned size, uint64_t number) {
    unsigned slot = (unsigned)(number * 0x9E3779B97F4A7C15u >> 40) & (size - 1);
    unsigned tries = 0;
    while (table[slot] != 0 && table[slot] != number) {
        slot = (slot + 1) & (size - 1);
        if (++tries > size / 2)
            die("too many files or folders", side);
    }
    table[slot] = number;
}

static void log_append(enum kind kind, uint64_t inode, uint64_t offset, uint64_t extent, uint64_t size,
                       const void *data, size_t length) {
    struct record record = {RECORD_MAGIC, kind, inode, offset, extent, size, length};
    struct iovec parts[2] = {{&record, sizeof record}, {(void *)data, length}};
    ssize_t wanted = (ssize_t)(sizeof record + length);
    if (real_writev(log_fd, parts, length ? 2 : 1) != wanted)
        die("cannot write the log", side);
}

/* Where the next record goes; locked. Asked each time, because a child writes to the same log. */
static uint64_t log_end(void) { return (uint64_t)lseek(log_fd, 0, SEEK_END); }

static void inode_path(char *path, size_t size, uint64_t inode) {
    snprintf(path, size, "%s/inodes/%llu", side, (unsigned long long)inode);
}

/* The path of an open file; 0 when it is not below the folder. */
static int path_below_root(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int is_tracked(int fd, struct stat *status) {
    int kept = errno;
    int tracked = active && fstat(fd, status) == 0 && S_ISREG(status->st_mode) &&
                  status->st_dev == root_device;
    if (tracked) {
        lock();
        tracked = table_find(inodes, INODES_MAX, status->st_ino);
        unlock();
    }
    errno = kept;
    return tracked;
}

static int disk_is_full(void) {
    char path[PATH_MAX + 16];
    int kept = errno;
    snprintf(path, sizeof path, "%s/full", side);
    int full = access(path, F_OK) == 0;
    errno = full ? ENOSPC : kept;
    return full;
}

/* Reads `length` bytes of a tracked file; locked. */
static char *read_old(uint64_t inode, uint64_t offset, size_t length) {
    char path[PATH_MAX + 32];
    inode_path(path, sizeof path, inode);
    int fd = real_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    char *old = malloc(length ? length : 1);
    if (fd < 0 || old == NULL)
        die("cannot read what was there", path);
    size_t done = 0;
    while (done < length) {
        ssize_t got = pread(fd, old + done, length - done, (off_t)(offset + done));
        if (got <= 0)
            die("cannot read what was there", path);
        done += (size_t)got;
    }
    close(fd);
    return old;
}

static int all_zeros(const char *data, size_t length) {
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Locked; the file is about to change at `offset`. */
static void before_write(const struct stat *status, uint64_t offset, uint64_t extent) {
    uint64_t size = (uint64_t)status->st_size;
    uint64_t end = offset + extent < size ? offset + extent : size;
    size_t length = offset < end ? (size_t)(end - offset) : 0;
    if (length == 0) {
        log_append(KIND_WRITE, status->st_ino, offset, extent, size, NULL, 0);
        return;
    }
    char *old = read_old(status->st_ino, offset, length);
    if (all_zeros(old, length))
        log_append(KIND_WRITE_ZEROS, status->st_ino, offset, extent, size, NULL, 0);
    else
        log_append(KIND_WRITE, status->st_ino, offset, extent, size, old, length);
    free(old);
}

/* Locked; the file is about to get another size. */
static void before_resize(const struct stat *status, uint64_t size) {
    uint64_t old_size = (uint64_t)status->st_size;
    size_t length = size < old_size ? (size_t)(old_size - size) : 0;
    char *old = length ? read_old(status->st_ino, size, length) : NULL;
    log_append(KIND_RESIZE, status->st_ino, size, 0, old_size, old, length);
    free(old);
}

/* Locked; a file below the folder that is not known yet. */
static void track(int fd, const struct stat *status, const char *path) {
    char link[64], kept[PATH_MAX + 32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    inode_path(kept, sizeof kept, status->st_ino);
    if (linkat(AT_FDCWD, link, AT_FDCWD, kept, AT_SYMLINK_FOLLOW) != 0 && errno != EEXIST)
        die("cannot keep a second name of a file", path);
    table_add(inodes, INODES_MAX, status->st_ino);
}

/* Keeps the number of a folder from being given to another: an open file does that. Locked. */
static void keep_folder(const char *path, uint64_t inode) {
    if (table_find(folders, FOLDERS_MAX, inode))
        return;
    if (real_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC) < 0)
        return; /* Gone meanwhile. */
    table_add(folders, FOLDERS_MAX, inode);
}

struct listing {
    char *data;
    size_t length, room;
};

static void list_entry(struct listing *listing, char type, uint64_t inode, const char *name) {
    size_t name_length = strlen(name);
    uint16_t short_length = (uint16_t)name_length;
    size_t needed = 1 + sizeof inode + sizeof short_length + name_length;
    if (listing->length + needed > listing->room) {
        listing->room = 2 * (listing->length + needed);
        listing->data = realloc(listing->data, listing->room);
        if (listing->data == NULL)
            die("no memory", name);
    }
    char *end = listing->data + listing->length;
    *end++ = type;
    memcpy(end, &inode, sizeof inode);
    end += sizeof inode;
    memcpy(end, &short_length, sizeof short_length);
    memcpy(end + sizeof short_length, name, name_length);
    listing->length += needed;
}

/* What is in a folder. With `first`, files in it are taken in as they are, as synced. Locked. */
static struct listing list_folder(const char *path, int first) {
    struct listing listing = {0};
    DIR *folder = opendir(path);
    if (folder == NULL)
        return listing; /* Gone meanwhile. */
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        struct stat status;
        char child[2 * PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (lstat(child, &status) != 0)
            continue; /* Gone meanwhile. */
        if (S_ISDIR(status.st_mode)) {
            keep_folder(child, status.st_ino);
            list_entry(&listing, 'd', status.st_ino, entry->d_name);
        } else if (S_ISREG(status.st_mode)) {
            if (!table_find(inodes, INODES_MAX, status.st_ino)) {
                int fd = first ? real_openat(AT_FDCWD, child, O_RDONLY | O_CLOEXEC) : -1;
                if (fd < 0)
                    die("a file came here by a way that is not modelled", child);
                track(fd, &status, child);
                close(fd);
            }
            list_entry(&listing, 'f', status.st_ino, entry->d_name);
        } else if (!S_ISSOCK(status.st_mode)) {
            die("a thing that is neither file nor folder is not modelled", child);
        }
    }
    closedir(folder);
    return listing;
}

static void take_in(const char *path) {
    struct stat status;
    if (lstat(path, &status) != 0)
        die("cannot take in", path);
    keep_folder(path, status.st_ino);
    struct listing listing = list_folder(path, 1);
    log_append(KIND_SYNC_FOLDER, status.st_ino, log_end(), 0, 0, listing.data, listing.length);
    free(listing.data);
    DIR *folder = opendir(path);
    if (folder == NULL)
        die("cannot take in", path);
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        char child[2 * PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (lstat(child, &status) == 0 && S_ISDIR(status.st_mode))
            take_in(child);
    }
    closedir(folder);
}

__attribute__((constructor)) static void start(void) {
    find_real();
    const char *root_variable = getenv("POWERCUT_ROOT"), *side_variable = getenv("POWERCUT_SIDE");
    if (root_variable == NULL || side_variable == NULL)
        return;
    snprintf(root, sizeof root, "%s", root_variable);
    snprintf(side, sizeof side, "%s", side_variable);
    root_length = strlen(root);
    struct stat status;
    if (stat(root, &status) != 0)
        die("no such folder", root);
    root_device = status.st_dev;
    char path[PATH_MAX + 32], half[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/log", side);
    snprintf(half, sizeof half, "%s/log.half", side);
    log_fd = real_openat(AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log_fd < 0) {
        /* Under another name until everything is taken in: a kill meanwhile must not look like an empty folder. */
        log_fd = real_openat(AT_FDCWD, half, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0)
            die("cannot write the log", half);
        take_in(root);
        if (rename(half, path) != 0)
            die("cannot write the log", path);
    } else {
        /* A second process after the first: what that one tracked is tracked. */
        snprintf(path, sizeof path, "%s/inodes", side);
        DIR *known = opendir(path);
        if (known == NULL)
            die("cannot read", path);
        struct dirent *entry;
        while ((entry = readdir(known)) != NULL)
            if (entry->d_name[0] != '.')
                table_add(inodes, INODES_MAX, strtoull(entry->d_name, NULL, 10));
        closedir(known);
    }
    active = 1;
}

/* ---- opening ---- */

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    find_real();
    if (!active || (flags & O_PATH) || ((flags & O_ACCMODE) == O_RDONLY && !(flags & (O_CREAT | O_TRUNC))))
        return real_openat(folder, path, flags, mode);
    lock();
    struct stat before;
    int existed = fstatat(folder, path, &before, 0) == 0 && S_ISREG(before.st_mode);
    int known = existed && before.st_dev == root_device && table_find(inodes, INODES_MAX, before.st_ino);
    if (known && (flags & O_TRUNC) && before.st_size > 0)
        before_resize(&before, 0);
    int fd = real_openat(folder, path, flags, mode);
    if (fd >= 0) {
        int kept = errno;
        char full[PATH_MAX];
        struct stat status;
        if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && path_below_root(fd, full, sizeof full)) {
            if (flags & (O_SYNC | O_DSYNC))
                die("O_SYNC is not modelled", full);
            if ((flags & O_TMPFILE) == O_TMPFILE)
                die("O_TMPFILE is not modelled", full);
            if (status.st_dev != root_device)
                die("another file system below the folder is not modelled", full);
            if (!table_find(inodes, INODES_MAX, status.st_ino)) {
                if (status.st_size != 0)
                    die("a file came here by a way that is not modelled", full);
                track(fd, &status, full);
            }
        }
        errno = kept;
    }
    unlock();
    return fd;
}

#define MODE_OF(flags, mode)                                                                                   \
    mode_t mode = 0;                                                                                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                     \
        va_list arguments;                                                                                     \
        va_start(arguments, flags);                                                                            \
        mode = va_arg(arguments, mode_t);                                                                      \
        va_end(arguments);                                                                                     \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_at(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_at(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_at(folder, path, flags | O_LARGEFILE, mode);
}
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* ---- writing ---- */

/* Calls the real one between the pre-image and the end of the lock. `at` below 0: where the file stands. */
#define WRITE(fd, at, extent, real)                                                                            \
    struct stat status;                                                                                        \
    find_real();                                                                                               \
    if (!is_tracked(fd, &status))                                                                              \
        return real;                                                                                           \
    if (disk_is_full())                                                                                        \
        return -1;                                                                                             \
    lock();                                                                                                    \
    if (fstat(fd, &status) != 0)                                                                               \
        die("cannot look at a file", root);                                                                    \
    off_t offset = at;                                                                                         \
    if (fcntl(fd, F_GETFL) & O_APPEND)                                                                         \
        offset = status.st_size;                                                                               \
    else if (offset < 0)                                                                                       \
        offset = lseek(fd, 0, SEEK_CUR);                                                                       \
    before_write(&status, (uint64_t)offset, (uint64_t)(extent));                                               \
    ssize_t result = real;                                                                                     \
    unlock();                                                                                                  \
    return result;

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int index = 0; index < count; index++)
        sum += parts[index].iov_len;
    return sum;
}

ssize_t write(int fd, const void *data, size_t length) { WRITE(fd, -1, length, real_write(fd, data, length)) }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    WRITE(fd, at, length, real_pwrite(fd, data, length, at))
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) {
    WRITE(fd, at, length, real_pwrite(fd, data, length, at))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    WRITE(fd, -1, total(parts, count), real_writev(fd, parts, count))
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    WRITE(fd, at, total(parts, count), real_pwritev(fd, parts, count, at))
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    WRITE(fd, at, total(parts, count), real_pwritev(fd, parts, count, at))
}

static void refuse(int fd, const char *what) {
    struct stat status;
    char path[PATH_MAX] = "?";
    find_real();
    if (is_tracked(fd, &status)) {
        path_below_root(fd, path, sizeof path);
        die(what, path);
    }
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    refuse(fd, "pwritev2 is not modelled");
    return real_pwritev2(fd, parts, count, at, flags);
}
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length, unsigned flags) {
    refuse(to, "copy_file_range is not modelled");
    return real_copy_file_range(from, from_at, to, to_at, length, flags);
}
ssize_t sendfile(int to, int from, off_t *at, size_t count) {
    refuse(to, "sendfile is not modelled");
    return real_sendfile(to, from, at, count);
}
ssize_t sendfile64(int to, int from, off_t *at, size_t count) {
    refuse(to, "sendfile is not modelled");
    return real_sendfile(to, from, at, count);
}
ssize_t splice(int from, off_t *from_at, int to, off_t *to_at, size_t length, unsigned flags) {
    refuse(to, "splice is not modelled");
    return real_splice(from, from_at, to, to_at, length, flags);
}

static int resize(int fd, off_t size) {
    struct stat status;
    find_real();
    if (!is_tracked(fd, &status))
        return real_ftruncate(fd, size);
    if (size > status.st_size && disk_is_full())
        return -1;
    lock();
    if (fstat(fd, &status) != 0)
        die("cannot look at a file", root);
    before_resize(&status, (uint64_t)size);
    int result = real_ftruncate(fd, size);
    unlock();
    return result;
}
int ftruncate(int fd, off_t size) { return resize(fd, size); }
int ftruncate64(int fd, off_t size) { return resize(fd, size); }

static int resize_path(const char *path, off_t size) {
    find_real();
    if (!active)
        return real_truncate(path, size);
    int fd = open_at(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int result = resize(fd, size);
    close(fd);
    return result;
}
int truncate(const char *path, off_t size) { return resize_path(path, size); }
int truncate64(const char *path, off_t size) { return resize_path(path, size); }

static int allocate(int fd, int mode, off_t offset, off_t length) {
    struct stat status;
    find_real();
    if (!is_tracked(fd, &status))
        return real_fallocate(fd, mode, offset, length);
    if (mode != 0)
        refuse(fd, "this mode of fallocate is not modelled");
    if (disk_is_full())
        return -1;
    lock();
    if (fstat(fd, &status) != 0)
        die("cannot look at a file", root);
    off_t size = offset + length > status.st_size ? offset + length : status.st_size;
    before_resize(&status, (uint64_t)size);
    int result = real_fallocate(fd, mode, offset, length);
    unlock();
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return allocate(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off_t offset, off_t length) { return allocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    return allocate(fd, 0, offset, length) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off_t offset, off_t length) {
    return allocate(fd, 0, offset, length) == 0 ? 0 : errno;
}

static void *map(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    find_real();
    if (active && fd >= 0 && (protection & PROT_WRITE) && !(flags & MAP_PRIVATE))
        refuse(fd, "a writable shared mapping is not modelled");
    return real_mmap(address, length, protection, flags, fd, offset);
}
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(address, length, protection, flags, fd, offset);
}

/* ---- syncing ---- */

static int sync_it(int fd, int (*real)(int)) {
    struct stat status;
    char path[PATH_MAX];
    if (is_tracked(fd, &status)) {
        /* Writes that happen during the sync are not in it. */
        lock();
        uint64_t position = log_end();
        unlock();
        int result = real(fd);
        if (result == 0) {
            lock();
            log_append(KIND_SYNC_FILE, status.st_ino, position, 0, 0, NULL, 0);
            unlock();
        }
        return result;
    }
    if (active && fstat(fd, &status) == 0 && S_ISDIR(status.st_mode) &&
        path_below_root(fd, path, sizeof path)) {
        lock();
        uint64_t position = log_end();
        keep_folder(path, status.st_ino);
        struct listing listing = list_folder(path, 0);
        unlock();
        int result = real(fd);
        lock();
        if (result == 0)
            log_append(KIND_SYNC_FOLDER, status.st_ino, position, 0, 0, listing.data, listing.length);
        unlock();
        free(listing.data);
        return result;
    }
    return real(fd);
}
int fsync(int fd) {
    find_real();
    return sync_it(fd, real_fsync);
}
int fdatasync(int fd) {
    find_real();
    return sync_it(fd, real_fdatasync);
}
int syncfs(int fd) {
    find_real();
    if (active)
        die("syncfs is not modelled", root);
    return (int)real_syscall(SYS_syncfs, fd);
}
void sync(void) {
    find_real();
    if (active)
        die("sync is not modelled", root);
    real_syscall(SYS_sync);
}

/* ---- raw system calls through libc ---- */

long syscall(long number, ...) {
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int index = 0; index < 6; index++)
        a[index] = va_arg(arguments, long);
    va_end(arguments);
    find_real();
    if (active) {
        switch (number) {
        case SYS_write:
        case SYS_writev:
        case SYS_pwrite64:
        case SYS_pwritev:
        case SYS_pwritev2:
        case SYS_ftruncate:
        case SYS_fallocate:
        case SYS_fsync:
        case SYS_fdatasync:
            refuse((int)a[0], "a raw system call is not modelled");
            break;
        case SYS_copy_file_range:
            refuse((int)a[2], "a raw system call is not modelled");
            break;
#ifdef SYS_io_uring_setup
        case SYS_io_uring_setup:
            die("io_uring is not modelled", root);
#endif
        }
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
