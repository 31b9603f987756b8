/**
 * @file version.h
 * @brief The version of kvsim, in the one place where it is written.
 *
 * The release number and the ABI number live apart. `KVSIM_ABI_VERSION` is the SONAME of the shared
 * library; it changes only when a program built against an older header can no longer run.
 * Before release 1.0 it is 0 and may break; CHANGELOG.md says when.
 */
#ifndef KVSIM_VERSION_H
#define KVSIM_VERSION_H

#define KVSIM_VERSION_MAJOR 0 /**< first number of the release */
#define KVSIM_VERSION_MINOR 1 /**< second number of the release */
#define KVSIM_VERSION_PATCH 0 /**< third number of the release */

/** Release as text, "major.minor.patch". */
#define KVSIM_VERSION_STRING "0.1.0"

/** SONAME of libkvsim.so. */
#define KVSIM_ABI_VERSION 0

#endif
