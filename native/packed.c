/* Packed files: one page of header, then the block of weights exactly as it is laid out in memory. Loading
 * maps the file, and processes share its pages.
 *
 * The position of each tensor follows from the config alone, so the header holds no index. It is written in
 * the machine's byte order; the field `order` shows if a file comes from a machine with another one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory.h"
#include "model.h"

#define MAGIC "gpt2c pk"
#define FORMAT_VERSION 2u
#define BYTE_ORDER_MARK 0x01020304u
#define HEADER_BYTES 4096 /* a page: the weights after it are as aligned as the mapping */
#define KEY_BYTES 128

/* n_layer n_head n_embd n_inner n_ctx n_vocab activation untied unscaled_scores scores_by_layer */
#define SHAPE_FIELDS 10

typedef struct packed_header {
    char magic[8];
    uint32_t version;
    uint32_t order;
    int32_t shape[SHAPE_FIELDS];
    float layer_norm_epsilon;
    int32_t aligned;
    int32_t format;
    int32_t head_screen;
    uint64_t weight_bytes;
    uint64_t weights_checksum;
    char key[KEY_BYTES];
    uint64_t header_checksum; /* of all fields before it */
} packed_header;

/* FNV-1a (Fowler, Noll, Vo), over 8 bytes at a time. It detects damage, not deliberate changes. */
static uint64_t checksum(const void *data, size_t n_bytes) {
    const unsigned char *bytes = data;
    uint64_t hash = 0xcbf29ce484222325u, word;
    for (; n_bytes >= sizeof word; bytes += sizeof word, n_bytes -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    for (; n_bytes > 0; bytes++, n_bytes--) hash = (hash ^ *bytes) * 0x100000001b3u;
    return hash;
}

static uint64_t checksum_of_header(const packed_header *header) {
    return checksum(header, offsetof(packed_header, header_checksum));
}

static void shape_of(const gpt2c_model_config *c, int32_t shape[SHAPE_FIELDS]) {
    const int32_t fields[SHAPE_FIELDS] = {
        c->n_layer,
        c->n_head,
        c->n_embd,
        c->n_inner,
        c->n_ctx,
        c->n_vocab,
        c->activation,
        c->untied,
        c->unscaled_scores,
        c->scores_by_layer,
    };
    memcpy(shape, fields, sizeof fields);
}

int32_t gpt2c_packed_version(void) { return (int32_t)FORMAT_VERSION; }

gpt2c_status gpt2c_model_checksum(const gpt2c_model *model, uint64_t *sum) {
    if (model == NULL || sum == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!model->frozen) return GPT2C_STATUS_NOT_READY;
    *sum = checksum(model->weights, model->weight_bytes);
    return GPT2C_STATUS_OK;
}

/* ---- Writing ---- */

static int write_all(int file, const void *data, size_t n_bytes) {
    const char *bytes = data;
    while (n_bytes > 0) {
        const ssize_t n = write(file, bytes, n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return 1;
}

static int write_packed(int file, const gpt2c_model *model, const char *key) {
    union {
        packed_header header;
        char page[HEADER_BYTES];
    } first;
    memset(&first, 0, sizeof first);
    packed_header *header = &first.header;
    memcpy(header->magic, MAGIC, sizeof header->magic);
    header->version = FORMAT_VERSION;
    header->order = BYTE_ORDER_MARK;
    shape_of(&model->config, header->shape);
    header->layer_norm_epsilon = model->config.layer_norm_epsilon;
    header->aligned = model->config.aligned;
    header->format = model->config.format;
    header->head_screen = model->config.head_screen;
    header->weight_bytes = model->weight_bytes;
    header->weights_checksum = checksum(model->weights, header->weight_bytes);
    memcpy(header->key, key, strlen(key));
    header->header_checksum = checksum_of_header(header);
    return write_all(file, &first, sizeof first) &&
           write_all(file, model->weights, header->weight_bytes) && fsync(file) == 0;
}

/* Only a regular file may be replaced: renaming would replace a device or a socket, too. */
static int may_replace(const char *path) {
    struct stat about;
    return stat(path, &about) != 0 || S_ISREG(about.st_mode);
}

/* Opens a new file in the folder of `path`. The first names may be taken: by other threads that save, or by a
 * killed process with the same process id, which the first process of a container always has. */
static int open_temporary(char *name, size_t capacity, const char *path) {
    int file = -1;
    for (int i = 0; i < 100; i++) {
        snprintf(name, capacity, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (file >= 0 || errno != EEXIST) break;
    }
    return file;
}

gpt2c_status gpt2c_packed_save(const gpt2c_model *model, const char *path, const char *key) {
    if (model == NULL || path == NULL || key == NULL || strlen(key) >= KEY_BYTES)
        return GPT2C_STATUS_INVALID_ARGUMENT;
    if (!model->frozen) return GPT2C_STATUS_NOT_READY;
    const size_t n = strlen(path) + 32;
    char *temporary = gpt2c_alloc(n, 1);
    if (temporary == NULL) return GPT2C_STATUS_OUT_OF_MEMORY;

    gpt2c_status status = GPT2C_STATUS_IO_ERROR;
    const int file = may_replace(path) ? open_temporary(temporary, n, path) : -1;
    if (file >= 0) {
        const int written = write_packed(file, model, key);
        if (close(file) == 0 && written && rename(temporary, path) == 0)
            status = GPT2C_STATUS_OK;
        else
            unlink(temporary);
    }
    gpt2c_free(temporary);
    return status;
}

/* ---- Reading ---- */

static gpt2c_status check_header(const packed_header *header, uint64_t file_bytes) {
    const int good = memcmp(header->magic, MAGIC, sizeof header->magic) == 0 &&
                     header->version == FORMAT_VERSION && header->order == BYTE_ORDER_MARK &&
                     header->header_checksum == checksum_of_header(header) &&
                     memchr(header->key, 0, KEY_BYTES) != NULL &&
                     file_bytes >= HEADER_BYTES && header->weight_bytes == file_bytes - HEADER_BYTES;
    return good ? GPT2C_STATUS_OK : GPT2C_STATUS_BAD_FILE;
}

/* Maps the whole file, read-only. */
static gpt2c_status map_packed(const char *path, packed_header *header, void **mapping,
                               size_t *mapping_bytes) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or a FIFO would wait for a writer */
    if (file < 0) return GPT2C_STATUS_IO_ERROR;
    gpt2c_status status = GPT2C_STATUS_IO_ERROR;
    struct stat about;
    if (fstat(file, &about) == 0) {
        status = GPT2C_STATUS_BAD_FILE;
        if (S_ISREG(about.st_mode) && pread(file, header, sizeof *header, 0) == sizeof *header)
            status = check_header(header, (uint64_t)about.st_size);
    }
    if (status == GPT2C_STATUS_OK) {
        *mapping_bytes = (size_t)about.st_size;
        *mapping = mmap(NULL, *mapping_bytes, PROT_READ, MAP_PRIVATE, file, 0);
        if (*mapping == MAP_FAILED) status = GPT2C_STATUS_IO_ERROR;
    }
    close(file);
    return status;
}

gpt2c_status gpt2c_packed_info(const char *path, int32_t verify, gpt2c_model_config *config) {
    if (path == NULL || config == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    packed_header header;
    void *mapping;
    size_t mapping_bytes;
    gpt2c_status status = map_packed(path, &header, &mapping, &mapping_bytes);
    if (status != GPT2C_STATUS_OK) return status;
    if (verify && checksum((char *)mapping + HEADER_BYTES, header.weight_bytes) != header.weights_checksum)
        status = GPT2C_STATUS_BAD_FILE;
    munmap(mapping, mapping_bytes);
    if (status != GPT2C_STATUS_OK) return status;
    *config = (gpt2c_model_config){
        .n_layer = header.shape[0],
        .n_head = header.shape[1],
        .n_embd = header.shape[2],
        .n_inner = header.shape[3],
        .n_ctx = header.shape[4],
        .n_vocab = header.shape[5],
        .layer_norm_epsilon = header.layer_norm_epsilon,
        .aligned = header.aligned,
        .format = header.format,
        .head_screen = header.head_screen,
        .activation = header.shape[6],
        .untied = header.shape[7],
        .unscaled_scores = header.shape[8],
        .scores_by_layer = header.shape[9],
    };
    return GPT2C_STATUS_OK;
}

gpt2c_status gpt2c_packed_open(const char *path, const char *key, const gpt2c_model_config *config,
                               gpt2c_model **model) {
    if (model == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    *model = NULL;
    if (path == NULL || config == NULL) return GPT2C_STATUS_INVALID_ARGUMENT;
    gpt2c_model *made = NULL;
    gpt2c_status status = gpt2c_model_prepare(config, &made);
    if (status != GPT2C_STATUS_OK) return status;

    packed_header header;
    int32_t shape[SHAPE_FIELDS];
    void *mapping;
    size_t mapping_bytes;
    status = map_packed(path, &header, &mapping, &mapping_bytes);
    if (status != GPT2C_STATUS_OK) {
        gpt2c_model_free(made);
        return status;
    }
    made->mapping = mapping;
    made->mapping_bytes = mapping_bytes;
    shape_of(config, shape);
    const int fits = memcmp(shape, header.shape, sizeof shape) == 0 &&
                     header.layer_norm_epsilon == config->layer_norm_epsilon &&
                     header.aligned == config->aligned && header.format == config->format &&
                     header.head_screen == config->head_screen &&
                     (key == NULL || strcmp(key, header.key) == 0) &&
                     header.weight_bytes == gpt2c_model_measure(made);
    if (!fits) {
        gpt2c_model_free(made);
        return GPT2C_STATUS_BAD_FILE;
    }
    gpt2c_model_place(made, (char *)mapping + HEADER_BYTES);
    made->frozen = 1;
    *model = made;
    return GPT2C_STATUS_OK;
}
