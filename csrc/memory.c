/* Memory that can be passed to another process: memfd_create(2) and its seals (fcntl(2)). */
#include "hotfd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS_SHARED (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_SEALED (SEALS_SHARED | F_SEAL_WRITE)

/* Linux 6.3: content is never executable. Hosts may insist on it (sysctl vm.memfd_noexec). */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static int create(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* an older kernel, or a bad name: then this says EINVAL as well */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd >= 0 ? fd : -errno;
}

static int write_all(int fd, const uint8_t *at, size_t left)
{
    while (left > 0) {
        ssize_t done = write(fd, at, left);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        at += done;
        left -= (size_t)done;
    }
    return 0;
}

static int fill(int fd, const struct iovec *chunks, size_t count)
{
    size_t at = 0;
    while (at < count) {
        ssize_t done = writev(fd, chunks + at, (int)(count - at < IOV_MAX ? count - at : IOV_MAX));
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        size_t left = (size_t)done;
        while (at < count && left >= chunks[at].iov_len)
            left -= chunks[at++].iov_len;
        if (left > 0) { /* cut inside a chunk: the kernel takes at most 2 GiB at once */
            int rc = write_all(fd, (const uint8_t *)chunks[at].iov_base + left, chunks[at].iov_len - left);
            if (rc != 0)
                return rc;
            at++;
        }
    }
    return 0;
}

int hotfd_memory_sealed(const char *name, const struct iovec *chunks, size_t count)
{
    int fd = create(name);
    if (fd < 0)
        return fd;
    int rc = fill(fd, chunks, count);
    if (rc == 0 && fcntl(fd, F_ADD_SEALS, SEALS_SEALED) != 0)
        rc = -errno;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

int hotfd_memory_shared(const char *name, uint64_t size)
{
    if (size > HOTFD_MAX_MAX_SIZE)
        return -EFBIG;
    int fd = create(name);
    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, SEALS_SHARED) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

int64_t hotfd_memory_size(int fd, int writable, uint64_t limit)
{
    int wanted = writable ? SEALS_SHARED : SEALS_SEALED;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 && errno != EINVAL) /* EINVAL: a file of a kind that knows no seals */
        return -errno;
    if (seals < 0 || (seals & SEALS_SEALED) != wanted)
        return -EPERM;
    /* The size is read after the seals: from here on it cannot change. */
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    return (uint64_t)status.st_size <= limit ? status.st_size : -EFBIG;
}
