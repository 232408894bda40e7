/* A test is a function without arguments; CHECK ends the program with the place and the values. */
#ifndef HARNESS_H
#define HARNESS_H

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

#define CHECK_EQUAL(left, right)                                                                             \
    do {                                                                                                     \
        long long left_ = (long long)(left), right_ = (long long)(right);                                    \
        if (left_ != right_) {                                                                               \
            fprintf(stderr, "%s:%d: %s: %s is %lld, and %s is %lld\n", __FILE__, __LINE__, __func__, #left,  \
                    left_, #right, right_);                                                                  \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Descriptors that this process has open, less the one that looks. */
static inline int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    int count = 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count - 3; /* ".", "..", and the directory itself */
}

/* Run one test; it must leave no descriptor behind. */
#define RUN(test)                                                                                            \
    do {                                                                                                     \
        int before_ = open_descriptors();                                                                    \
        test();                                                                                              \
        CHECK_EQUAL(open_descriptors(), before_);                                                            \
        printf("ok %s\n", #test);                                                                            \
    } while (0)

#endif
