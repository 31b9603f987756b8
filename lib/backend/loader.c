#define _GNU_SOURCE /* dladdr1, secure_getenv */
#include "loader.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

typedef const kvsim__backend *query_function(uint32_t version);

/* Defined where the plug-in is linked into the program; the name stays visible in the static library. */
extern query_function kvsim_backend_query __attribute__((weak, visibility("default")));

/* A table that has been found. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const kvsim__backend *found;

static bool is_complete(const kvsim__backend *table) {
    return table->open != NULL && table->close != NULL && table->describe != NULL && table->error != NULL &&
           table->allocate != NULL && table->release != NULL && table->upload != NULL && table->download != NULL &&
           table->fill != NULL && table->wait != NULL && table->wait_for != NULL && table->device_of != NULL &&
           table->classify != NULL && table->hash != NULL && table->equal != NULL && table->measure != NULL &&
           table->gather != NULL && table->pack != NULL && table->compare != NULL && table->resolve != NULL &&
           table->rescore != NULL && table->compare_bits != NULL;
}

static const kvsim__backend *ask(query_function *query, const char *where, char *reason, size_t reason_size) {
    const kvsim__backend *table = query(KVSIM__BACKEND_VERSION);
    if (table == NULL) {
        (void)snprintf(reason, reason_size,
                       "%s does not know version %u of the backend table: install the one of kvsim %s", where,
                       KVSIM__BACKEND_VERSION, KVSIM_VERSION_STRING);
        return NULL;
    }
    if (table->version != KVSIM__BACKEND_VERSION || table->struct_size != sizeof *table) {
        (void)snprintf(
            reason, reason_size,
            "%s has version %u (%u bytes) of the backend table, not %u (%zu bytes): install the one of kvsim %s", where,
            table->version, table->struct_size, KVSIM__BACKEND_VERSION, sizeof *table, KVSIM_VERSION_STRING);
        return NULL;
    }
    if (!is_complete(table)) {
        (void)snprintf(reason, reason_size, "%s leaves out functions of the backend table", where);
        return NULL;
    }
    return table;
}

const kvsim__backend *kvsim__backend_load(const char *path, char *reason, size_t reason_size) {
    struct stat facts;
    if (path[0] != '/') {
        (void)snprintf(reason, reason_size, "%s is not an absolute path", path);
        return NULL;
    }
    /* Opening a pipe would wait for ever. */
    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        (void)snprintf(reason, reason_size, "%s is not a file", path);
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *text = dlerror();
        (void)snprintf(reason, reason_size, "%s cannot be loaded: %s", path,
                       text != NULL ? text : "no reason is given");
        return NULL;
    }
    /* What has been loaded stays, whatever it is: a library may have started threads. */
    void *symbol = dlsym(library, KVSIM__BACKEND_QUERY);
    if (symbol == NULL) {
        (void)snprintf(reason, reason_size, "%s is no backend of kvsim: it has no function " KVSIM__BACKEND_QUERY,
                       path);
        return NULL;
    }
    query_function *query;
    memcpy(&query, &symbol, sizeof query); /* ISO C knows no conversion from an object's address to a function's */
    return ask(query, path, reason, reason_size);
}

/* Folder of the file that this code is in, or false. The name the program was started by is not to be trusted. */
static bool get_own_folder(bool secure, char out[PATH_MAX]) {
    Dl_info info;
    void *extra = NULL;
    if (dladdr1(&found, &info, &extra, RTLD_DL_LINKMAP) == 0 || extra == NULL) {
        return false;
    }
    const char *name = ((const struct link_map *)extra)->l_name;
    if (name != NULL && name[0] == '/') {
        if (strlen(name) >= PATH_MAX) {
            return false;
        }
        strcpy(out, name);
    } else if (name == NULL || name[0] == '\0') { /* the program itself */
        const ssize_t length = secure ? -1 : readlink("/proc/self/exe", out, PATH_MAX - 1);
        if (length <= 0) {
            return false;
        }
        out[length] = '\0';
    } else {
        return false; /* below the current folder */
    }
    char *end = strrchr(out, '/');
    if (end == NULL) {
        return false;
    }
    *end = '\0';
    return true;
}

/* Path of the plug-in below a folder; false if there is none or no room for its name. */
static bool is_there(const char *folder, const char *below, char path[PATH_MAX]) {
    const int length = snprintf(path, PATH_MAX, "%s%s/" KVSIM__BACKEND_FILE, folder, below);
    return length > 0 && length < PATH_MAX && access(path, F_OK) == 0;
}

static const kvsim__backend *search(char *reason, size_t reason_size) {
    const bool secure = getauxval(AT_SECURE) != 0;
    const char *named = secure_getenv(KVSIM__BACKEND_VARIABLE);
    char path[PATH_MAX], own[PATH_MAX];
    if (named != NULL && named[0] == '/' && is_there(named, "", path)) {
        return kvsim__backend_load(path, reason, reason_size);
    }
    if (named != NULL && named[0] != '\0' && named[0] != '/') {
        (void)snprintf(reason, reason_size, KVSIM__BACKEND_VARIABLE " is \"%s\", which is not an absolute path", named);
        return NULL;
    }
    const bool has_own = get_own_folder(secure, own);
    if ((has_own && (is_there(own, "", path) || is_there(own, "/kvsim", path))) ||
        is_there(KVSIM__BACKEND_FOLDER, "", path)) {
        return kvsim__backend_load(path, reason, reason_size);
    }
    (void)snprintf(reason, reason_size,
                   "there is no " KVSIM__BACKEND_FILE
                   " in %s, %s/kvsim or %s: install it, or name its folder in " KVSIM__BACKEND_VARIABLE,
                   has_own ? own : "libkvsim's folder", has_own ? own : "libkvsim's folder", KVSIM__BACKEND_FOLDER);
    return NULL;
}

const kvsim__backend *kvsim__backend_find(char *reason, size_t reason_size) {
    (void)pthread_mutex_lock(&lock);
    if (found == NULL) {
        found = kvsim_backend_query != NULL
                    ? ask(kvsim_backend_query, "the backend in this program", reason, reason_size)
                    : search(reason, reason_size);
    }
    const kvsim__backend *table = found;
    (void)pthread_mutex_unlock(&lock);
    return table;
}
