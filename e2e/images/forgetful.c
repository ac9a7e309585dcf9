/* A file system that forgets what was not fsynced, to cut the power of one directory.
 *
 * It holds everything twice: what programs see now, and what a disk would hold. fsync and fdatasync carry one file over,
 * with its names; fsync of a directory carries over the names in it. Writing `cut` into the file `.power` cuts the power:
 * what programs see becomes what the disk holds. `after N` cuts it after N further changes (writes of bytes do not count),
 * and from then on everything fails until `on` is written. Reading it tells how often what happened. Directories cannot be
 * renamed. One thread, all in memory. After a cut every file is a new one to the kernel, so that no page it still held
 * comes back; writes through handles from before go nowhere.
 *
 * usage: forgetful <mount point>, as root, in the foreground, until SIGTERM. */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define CONTROL ".power"
#define CONTROL_INO 2
#define FIRST_INO 3

struct bytes {
    char *data;
    size_t size, room;
};

struct file {
    struct bytes now, disk;
    /* What of `now` the disk may not hold. */
    size_t dirty_from, dirty_to;
    mode_t mode;
    time_t changed;
    /* From before a power cut. */
    int dead;
    int is_folder;
};

/* NULL where the name leads to nothing. The text is the whole path below the mount point. */
struct name {
    char text[256];
    struct file *now, *disk;
};

static struct file **files;
static size_t n_files;
static struct name *names;
static size_t n_names;
static unsigned long n_cuts, n_fsyncs, n_bytes_forgotten, n_names_forgotten, n_changes;
/* Changes until the power goes; below zero: it stays. */
static long n_left = -1;
static int is_dark;

static void *grown(void *old, size_t size)
{
    void *new = realloc(old, size);
    if (!new) {
        fprintf(stderr, "forgetful: no memory\n");
        exit(1);
    }
    return new;
}

static void resize(struct bytes *bytes, size_t size)
{
    if (size > bytes->room) {
        bytes->room = size + size / 2 + 4096;
        bytes->data = grown(bytes->data, bytes->room);
    }
    if (size > bytes->size)
        memset(bytes->data + bytes->size, 0, size - bytes->size);
    bytes->size = size;
}

static void dirty(struct file *file, size_t from, size_t to)
{
    if (from < file->dirty_from)
        file->dirty_from = from;
    if (to > file->dirty_to)
        file->dirty_to = to;
    file->changed = time(NULL);
}

static void clean(struct file *file)
{
    file->dirty_from = (size_t)-1;
    file->dirty_to = 0;
}

static struct file *new_file(mode_t mode)
{
    struct file *file = grown(NULL, sizeof *file);
    memset(file, 0, sizeof *file);
    clean(file);
    file->mode = mode;
    file->changed = time(NULL);
    files = grown(files, (n_files + 1) * sizeof *files);
    files[n_files++] = file;
    return file;
}

static fuse_ino_t ino_of(const struct file *file)
{
    for (size_t i = 0; i < n_files; i++)
        if (files[i] == file)
            return FIRST_INO + i;
    return 0;
}

static struct file *file_of(fuse_ino_t ino)
{
    if (ino < FIRST_INO || ino - FIRST_INO >= n_files)
        return NULL;
    return files[ino - FIRST_INO];
}

static struct name *name_of(const char *text, int make)
{
    for (size_t i = 0; i < n_names; i++)
        if (!strcmp(names[i].text, text))
            return &names[i];
    if (!make)
        return NULL;
    names = grown(names, (n_names + 1) * sizeof *names);
    memset(&names[n_names], 0, sizeof *names);
    strncpy(names[n_names].text, text, sizeof names[n_names].text - 1);
    return &names[n_names++];
}

/* The path of a name in a folder. Gives an error number. */
static int path_of(fuse_ino_t folder, const char *text, char path[sizeof names->text])
{
    const char *above = "";
    if (folder != FUSE_ROOT_ID) {
        struct file *file = file_of(folder);
        for (size_t i = 0; i < n_names; i++)
            if (file && names[i].now == file)
                above = names[i].text;
        if (!*above)
            return ENOENT;
    }
    int length = snprintf(path, sizeof names->text, "%s%s%s", above, *above ? "/" : "", text);
    return length < 0 || (size_t)length >= sizeof names->text || !strcmp(path, CONTROL) ? EINVAL : 0;
}

/* What the path is called in that folder; NULL if it is not right there. */
static const char *leaf_of(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    if (length) {
        if (strncmp(path, folder, length) || path[length] != '/')
            return NULL;
        path += length + 1;
    }
    return strchr(path, '/') ? NULL : path;
}

/* The disk gets the file's bytes, and every name that leads or led to it. */
static void sync_file(struct file *file)
{
    size_t to = file->dirty_to < file->now.size ? file->dirty_to : file->now.size;
    resize(&file->disk, file->now.size);
    if (file->dirty_from < to)
        memcpy(file->disk.data + file->dirty_from, file->now.data + file->dirty_from, to - file->dirty_from);
    clean(file);
    for (size_t i = 0; i < n_names; i++)
        if (names[i].now == file || names[i].disk == file)
            names[i].disk = names[i].now;
}

static void cut_power(void)
{
    n_cuts++;
    /* What lies in a folder whose name never came to the disk cannot be found there. */
    for (int is_found = 1; is_found;) {
        is_found = 0;
        for (size_t n = 0; n < n_names; n++) {
            char above[sizeof names->text];
            strcpy(above, names[n].text);
            char *slash = strrchr(above, '/');
            if (!slash || !names[n].disk)
                continue;
            *slash = 0;
            struct name *folder = name_of(above, 0);
            if (!folder || !folder->disk) {
                names[n].disk = NULL;
                is_found = 1;
            }
        }
    }
    for (size_t n = 0; n < n_names; n++)
        n_names_forgotten += names[n].now != names[n].disk;
    size_t n_before = n_files;
    for (size_t i = 0; i < n_before; i++) {
        struct file *old = files[i];
        if (old->dead)
            continue;
        if (old->is_folder) {
            /* The same one to the kernel: it may be mounted elsewhere. */
            old->dead = 1;
            for (size_t n = 0; n < n_names; n++)
                if (names[n].disk == old)
                    old->dead = 0;
            continue;
        }
        size_t to = old->dirty_to < old->now.size ? old->dirty_to : old->now.size;
        if (old->dirty_from < to)
            n_bytes_forgotten += to - old->dirty_from;
        /* Two names may lead to it. */
        struct file *again = NULL;
        for (size_t n = 0; n < n_names; n++) {
            if (names[n].disk != old)
                continue;
            if (!again) {
                again = new_file(old->mode);
                again->disk = old->disk;
                resize(&again->now, old->disk.size);
                if (old->disk.size)
                    memcpy(again->now.data, old->disk.data, old->disk.size);
                memset(&old->disk, 0, sizeof old->disk);
            }
            names[n].disk = again;
        }
        free(old->now.data);
        free(old->disk.data);
        memset(&old->now, 0, sizeof old->now);
        memset(&old->disk, 0, sizeof old->disk);
        clean(old);
        old->dead = 1;
    }
    for (size_t n = 0; n < n_names; n++)
        names[n].now = names[n].disk;
}

/* Before every change. Gives an error number. */
static int change(void)
{
    if (!is_dark && n_left == 0) {
        cut_power();
        is_dark = 1;
    }
    if (is_dark)
        return EIO;
    n_changes++;
    if (n_left > 0)
        n_left--;
    return 0;
}

static int describe(fuse_ino_t ino, struct stat *stat)
{
    memset(stat, 0, sizeof *stat);
    stat->st_ino = ino;
    stat->st_nlink = 1;
    if (ino == FUSE_ROOT_ID) {
        stat->st_mode = S_IFDIR | 0700;
        stat->st_nlink = 2;
        return 0;
    }
    if (ino == CONTROL_INO) {
        stat->st_mode = S_IFREG | 0600;
        return 0;
    }
    struct file *file = file_of(ino);
    if (is_dark)
        return EIO;
    if (!file)
        return ENOENT;
    stat->st_mode = (file->is_folder ? S_IFDIR : S_IFREG) | (file->mode & 07777);
    stat->st_size = file->now.size;
    stat->st_blocks = (file->now.size + 511) / 512;
    stat->st_blksize = 4096;
    stat->st_mtime = stat->st_ctime = stat->st_atime = file->changed;
    return 0;
}

/* Timeouts of zero: the kernel asks each time, and so learns of a cut. */
static void entry_of(fuse_ino_t ino, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->ino = ino;
    describe(ino, &entry->attr);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *text)
{
    struct fuse_entry_param entry;
    char path[sizeof names->text];
    if (parent == FUSE_ROOT_ID && !strcmp(text, CONTROL)) {
        entry_of(CONTROL_INO, &entry);
        fuse_reply_entry(req, &entry);
        return;
    }
    int error = is_dark ? EIO : path_of(parent, text, path);
    struct name *name = error ? NULL : name_of(path, 0);
    if (!name || !name->now) {
        fuse_reply_err(req, error == EIO ? EIO : ENOENT);
        return;
    }
    entry_of(ino_of(name->now), &entry);
    fuse_reply_entry(req, &entry);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat stat;
    int error = describe(ino, &stat);
    (void)info;
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_attr(req, &stat, 0);
}

static void on_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *wanted, int what, struct fuse_file_info *info)
{
    struct file *file = file_of(ino);
    if (file && (file->dead || change())) {
        fuse_reply_err(req, EIO);
        return;
    }
    if (file && (what & FUSE_SET_ATTR_MODE))
        file->mode = wanted->st_mode;
    if (file && (what & FUSE_SET_ATTR_SIZE)) {
        size_t before = file->now.size, after = wanted->st_size;
        resize(&file->now, after);
        dirty(file, before < after ? before : after, before > after ? before : after);
    }
    on_getattr(req, ino, info);
}

static void on_create(fuse_req_t req, fuse_ino_t parent, const char *text, mode_t mode, struct fuse_file_info *info)
{
    struct fuse_entry_param entry;
    char path[sizeof names->text];
    int error = path_of(parent, text, path);
    if (!error)
        error = change();
    if (error) {
        fuse_reply_err(req, error);
        return;
    }
    struct name *name = name_of(path, 1);
    if (!name->now)
        name->now = new_file(mode);
    entry_of(ino_of(name->now), &entry);
    fuse_reply_create(req, &entry, info);
}

static void on_mkdir(fuse_req_t req, fuse_ino_t parent, const char *text, mode_t mode)
{
    struct fuse_entry_param entry;
    char path[sizeof names->text];
    int error = path_of(parent, text, path);
    struct name *name = error ? NULL : name_of(path, 1);
    if (name && name->now)
        error = EEXIST;
    if (!error)
        error = change();
    if (error) {
        fuse_reply_err(req, error);
        return;
    }
    name->now = new_file(mode);
    name->now->is_folder = 1;
    entry_of(ino_of(name->now), &entry);
    fuse_reply_entry(req, &entry);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    info->direct_io = ino == CONTROL_INO;
    fuse_reply_open(req, info);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
    char text[128];
    const char *data = text;
    size_t length;
    struct file *file = file_of(ino);
    (void)info;
    if (ino == CONTROL_INO) {
        length = snprintf(text, sizeof text, "%lu %lu %lu %lu %lu %d\n", n_cuts, n_fsyncs, n_bytes_forgotten,
                          n_names_forgotten, n_changes, is_dark);
    } else if (file && !file->dead && !is_dark) {
        data = file->now.data;
        length = file->now.size;
    } else {
        fuse_reply_err(req, EIO);
        return;
    }
    if ((size_t)offset >= length)
        fuse_reply_buf(req, NULL, 0);
    else
        fuse_reply_buf(req, data + offset, size < length - offset ? size : length - offset);
}

static void on_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    struct file *file = file_of(ino);
    (void)info;
    if (ino == CONTROL_INO) {
        char order[32] = "";
        memcpy(order, data, size < sizeof order ? size : sizeof order - 1);
        if (!strncmp(order, "after ", 6)) {
            n_left = atol(order + 6);
        } else if (!strncmp(order, "on", 2)) {
            is_dark = 0;
            n_left = -1;
        } else {
            cut_power();
        }
    } else if (file && !file->dead && !is_dark) {
        size_t before = file->now.size;
        if (offset + size > before)
            resize(&file->now, offset + size);
        memcpy(file->now.data + offset, data, size);
        dirty(file, (size_t)offset < before ? (size_t)offset : before, offset + size);
    } else {
        fuse_reply_err(req, EIO);
        return;
    }
    fuse_reply_write(req, size);
}

static void on_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *info)
{
    struct file *file = file_of(ino);
    (void)data_only;
    (void)info;
    n_fsyncs++;
    if (change() || (file && file->dead)) {
        fuse_reply_err(req, EIO);
        return;
    }
    if (file)
        sync_file(file);
    fuse_reply_err(req, 0);
}

static void on_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *info)
{
    char folder[sizeof names->text] = "";
    int error = ino == FUSE_ROOT_ID ? 0 : path_of(ino, "", folder);
    (void)data_only;
    (void)info;
    n_fsyncs++;
    if (!error)
        error = change();
    /* The path of no name in a folder ends in a slash. */
    if (*folder)
        folder[strlen(folder) - 1] = 0;
    for (size_t i = 0; i < n_names && !error; i++)
        if (leaf_of(names[i].text, folder))
            names[i].disk = names[i].now;
    fuse_reply_err(req, error);
}

static void on_unlink(fuse_req_t req, fuse_ino_t parent, const char *text)
{
    char path[sizeof names->text];
    int error = path_of(parent, text, path);
    struct name *name = error ? NULL : name_of(path, 0);
    if (!name || !name->now)
        error = ENOENT;
    for (size_t i = 0; i < n_names && !error; i++)
        if (names[i].now && leaf_of(names[i].text, path))
            error = ENOTEMPTY;
    if (!error)
        error = change();
    if (!error)
        name->now = NULL;
    fuse_reply_err(req, error);
}

static void on_rename(fuse_req_t req, fuse_ino_t parent, const char *text, fuse_ino_t new_parent,
                      const char *new_text, unsigned int flags)
{
    char path[sizeof names->text], new_path[sizeof names->text];
    int error = flags ? EINVAL : path_of(parent, text, path);
    if (!error)
        error = path_of(new_parent, new_text, new_path);
    /* Made first: making one may move the others. */
    struct name *to = error ? NULL : name_of(new_path, 1), *from = error ? NULL : name_of(path, 0);
    if (!error && (!from || !from->now))
        error = ENOENT;
    if (!error && from->now->is_folder)
        error = EINVAL;
    if (!error)
        error = change();
    if (!error && from != to) {
        to->now = from->now;
        from->now = NULL;
    }
    fuse_reply_err(req, error);
}

/* Room for whatever a story writes. */
static void on_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs stat = {.f_bsize = 4096, .f_frsize = 4096, .f_blocks = 1 << 22, .f_bfree = 1 << 21,
                           .f_bavail = 1 << 21, .f_files = 1 << 20, .f_ffree = 1 << 20, .f_namemax = 200};
    (void)ino;
    fuse_reply_statfs(req, &stat);
}

static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
    char *buffer = grown(NULL, size);
    char folder[sizeof names->text] = "";
    size_t used = 0;
    (void)info;
    if (is_dark || (ino != FUSE_ROOT_ID && path_of(ino, "", folder))) {
        free(buffer);
        fuse_reply_err(req, EIO);
        return;
    }
    if (*folder)
        folder[strlen(folder) - 1] = 0;
    for (size_t i = offset; i < n_names; i++) {
        struct stat stat;
        const char *leaf = leaf_of(names[i].text, folder);
        if (!names[i].now || !leaf)
            continue;
        describe(ino_of(names[i].now), &stat);
        size_t length = fuse_add_direntry(req, buffer + used, size - used, leaf, &stat, i + 1);
        if (length > size - used)
            break;
        used += length;
    }
    fuse_reply_buf(req, buffer, used);
    free(buffer);
}

/* Neither holds anything back: only fsync is a promise. */
static void on_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    (void)info;
    fuse_reply_err(req, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .create = on_create,
    .open = on_open,
    .read = on_read,
    .write = on_write,
    .flush = on_flush,
    .release = on_flush,
    .fsync = on_fsync,
    .fsyncdir = on_fsyncdir,
    .mkdir = on_mkdir,
    .unlink = on_unlink,
    .rmdir = on_unlink,
    .statfs = on_statfs,
    .rename = on_rename,
    .readdir = on_readdir,
};

int main(int argc, char **argv)
{
    char *arguments[] = {"forgetful", "-o", "fsname=forgetful", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
    if (argc != 2) {
        fprintf(stderr, "usage: forgetful <mount point>\n");
        return 2;
    }
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[1]))
        return 1;
    int result = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return result ? 1 : 0;
}
