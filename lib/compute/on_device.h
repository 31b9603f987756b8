/** What a compute does on a device, and what the host needs of pages that are on one. */
#ifndef KVSIM_COMPUTE_ON_DEVICE_H
#define KVSIM_COMPUTE_ON_DEVICE_H

#include "../pairs/device_pairs.h"
#include "internal.h"

/** Pages on the device whose `states` say that they are compared: find those that are not finite. */
kvsim_status kvsim__classify_on_device(kvsim__work *at);

/** Prepare host copies of pages that are on the device, if the flags of the plan need them. */
kvsim_status kvsim__open_mirror(kvsim__work *at);

/** Bring the pages of a unit to the device, and to the host if it needs copies. */
kvsim_status kvsim__unit_to_device(kvsim__work *at, kvsim__unit *unit);

/** Give back what the function above took. */
void kvsim__unit_leave_device(kvsim__work *at, kvsim__unit *unit);

/** Compare the pages of a unit in one view on the device: `views` are those of the pairing's groups, NULL without
 * pages. */
kvsim_status kvsim__compare_on_device(kvsim__work *at, const kvsim__unit *unit, kvsim__pairing *pairing,
                                      kvsim__device_view *const views[KVSIM__KINDS]);

#endif
