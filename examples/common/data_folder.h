/**
 * Where the files that kvsim ships (the small model, the prompts) are.
 */
#ifndef KVSIM_EXAMPLES_COMMON_DATA_FOLDER_H
#define KVSIM_EXAMPLES_COMMON_DATA_FOLDER_H

/**
 * Path of a shipped file or folder, in new memory for free(); NULL when out of memory.
 * Looked for in $KVSIM_DATA_DIR (alone, if it is set), then ../share/kvsim beside the folder of the running program,
 * then in the source tree it was built from. The last place is returned if the file is in none, for the error text.
 */
char *find_shipped(const char *name);

#endif
