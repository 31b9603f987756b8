/* Sizes and offsets of the public structs on LP64, frozen: a struct may grow at its end, nothing may move.
 * When one grows, its size is changed here on purpose. Compiled by tests/abi/symbols.sh; holds no code. */
#include <kvsim/kvsim.h>
#include <kvsim/snapshot.h>

#include <stddef.h>

#define SIZE(type, bytes)          _Static_assert(sizeof(type) == (bytes), "size of " #type)
#define OFFSET(type, field, bytes) _Static_assert(offsetof(type, field) == (bytes), #type "." #field)

_Static_assert(sizeof(void *) == 8 && sizeof(long) == 8, "these figures are those of LP64");
_Static_assert(sizeof(kvsim_status) == 4, "size of kvsim_status");

SIZE(kvsim_allocator, 24);
OFFSET(kvsim_allocator, allocate, 0);
OFFSET(kvsim_allocator, release, 8);
OFFSET(kvsim_allocator, user, 16);

SIZE(kvsim_options, 88);
OFFSET(kvsim_options, struct_size, 0);
OFFSET(kvsim_options, backend, 4);
OFFSET(kvsim_options, threads, 8);
OFFSET(kvsim_options, log_level, 12);
OFFSET(kvsim_options, allocator, 16);
OFFSET(kvsim_options, log, 24);
OFFSET(kvsim_options, log_user, 32);
OFFSET(kvsim_options, parallel_for, 40);
OFFSET(kvsim_options, parallel_user, 48);
OFFSET(kvsim_options, error_buffer, 56);
OFFSET(kvsim_options, error_buffer_size, 64);
OFFSET(kvsim_options, device_ordinal, 72);
OFFSET(kvsim_options, device_duty_percent, 76);
OFFSET(kvsim_options, device_memory_bytes, 80);

SIZE(kvsim_tensor, 56);
OFFSET(kvsim_tensor, struct_size, 0);
OFFSET(kvsim_tensor, device_type, 4);
OFFSET(kvsim_tensor, device_id, 8);
OFFSET(kvsim_tensor, ndim, 12);
OFFSET(kvsim_tensor, dtype_code, 16);
OFFSET(kvsim_tensor, dtype_bits, 17);
OFFSET(kvsim_tensor, dtype_lanes, 18);
OFFSET(kvsim_tensor, reserved, 20);
OFFSET(kvsim_tensor, byte_offset, 24);
OFFSET(kvsim_tensor, data, 32);
OFFSET(kvsim_tensor, shape, 40);
OFFSET(kvsim_tensor, strides, 48);

SIZE(kvsim_pages, 168);
OFFSET(kvsim_pages, struct_size, 0);
OFFSET(kvsim_pages, flags, 4);
OFFSET(kvsim_pages, layer, 8);
OFFSET(kvsim_pages, kind, 12);
OFFSET(kvsim_pages, layout, 16);
OFFSET(kvsim_pages, scale_mode, 20);
OFFSET(kvsim_pages, source, 24);
OFFSET(kvsim_pages, tensor, 32);
OFFSET(kvsim_pages, value_tensor, 40);
OFFSET(kvsim_pages, scale, 48);
OFFSET(kvsim_pages, value_scale, 56);
OFFSET(kvsim_pages, block_table, 64);
OFFSET(kvsim_pages, table_rows, 72);
OFFSET(kvsim_pages, table_columns, 80);
OFFSET(kvsim_pages, table_stride, 88);
OFFSET(kvsim_pages, seq_lens, 96);
OFFSET(kvsim_pages, page_count, 104);
OFFSET(kvsim_pages, block_ids, 112);
OFFSET(kvsim_pages, fills, 120);
OFFSET(kvsim_pages, sequences, 128);
OFFSET(kvsim_pages, positions, 136);
OFFSET(kvsim_pages, generations, 144);
OFFSET(kvsim_pages, page_tokens, 152);
OFFSET(kvsim_pages, reserved, 156);
OFFSET(kvsim_pages, stream, 160);

SIZE(kvsim_rope, 72);
OFFSET(kvsim_rope, struct_size, 0);
OFFSET(kvsim_rope, style, 4);
OFFSET(kvsim_rope, theta, 8);
OFFSET(kvsim_rope, rotary_dims, 16);
OFFSET(kvsim_rope, scaling, 20);
OFFSET(kvsim_rope, factor, 24);
OFFSET(kvsim_rope, original_max_position, 32);
OFFSET(kvsim_rope, low_freq_factor, 40);
OFFSET(kvsim_rope, high_freq_factor, 48);
OFFSET(kvsim_rope, beta_fast, 56);
OFFSET(kvsim_rope, beta_slow, 64);

SIZE(kvsim_compute_options, 120);
OFFSET(kvsim_compute_options, struct_size, 0);
OFFSET(kvsim_compute_options, metrics, 4);
OFFSET(kvsim_compute_options, views, 8);
OFFSET(kvsim_compute_options, flags, 12);
OFFSET(kvsim_compute_options, pairs, 16);
OFFSET(kvsim_compute_options, top_k, 20);
OFFSET(kvsim_compute_options, hamming_bits, 24);
OFFSET(kvsim_compute_options, threshold_count, 28);
OFFSET(kvsim_compute_options, thresholds, 32);
OFFSET(kvsim_compute_options, budgets, 40);
OFFSET(kvsim_compute_options, budget_count, 48);
OFFSET(kvsim_compute_options, jaccard_absolute, 52);
OFFSET(kvsim_compute_options, jaccard_tau, 56);
OFFSET(kvsim_compute_options, progress, 64);
OFFSET(kvsim_compute_options, progress_user, 72);
OFFSET(kvsim_compute_options, seed, 80);
OFFSET(kvsim_compute_options, families, 88);
OFFSET(kvsim_compute_options, family_count, 96);
OFFSET(kvsim_compute_options, null_repetitions, 104);
OFFSET(kvsim_compute_options, resamples, 108);
OFFSET(kvsim_compute_options, ulps, 112);
OFFSET(kvsim_compute_options, reserved, 116);

SIZE(kvsim_column, 56);
OFFSET(kvsim_column, struct_size, 0);
OFFSET(kvsim_column, dtype_code, 4);
OFFSET(kvsim_column, dtype_bits, 5);
OFFSET(kvsim_column, reserved, 6);
OFFSET(kvsim_column, rows, 8);
OFFSET(kvsim_column, width, 16);
OFFSET(kvsim_column, data, 24);
OFFSET(kvsim_column, table, 32);
OFFSET(kvsim_column, name, 40);
OFFSET(kvsim_column, unit, 48);

SIZE(kvsim_report_options, 40);
OFFSET(kvsim_report_options, struct_size, 0);
OFFSET(kvsim_report_options, indent, 4);
OFFSET(kvsim_report_options, write, 8);
OFFSET(kvsim_report_options, write_user, 16);
OFFSET(kvsim_report_options, file, 24);
OFFSET(kvsim_report_options, path, 32);

SIZE(kvsim_snapshot_info, 136);
OFFSET(kvsim_snapshot_info, struct_size, 0);
OFFSET(kvsim_snapshot_info, schema, 4);
OFFSET(kvsim_snapshot_info, layers, 8);
OFFSET(kvsim_snapshot_info, kv_heads, 12);
OFFSET(kvsim_snapshot_info, head_dim, 16);
OFFSET(kvsim_snapshot_info, page_tokens, 20);
OFFSET(kvsim_snapshot_info, sequences, 24);
OFFSET(kvsim_snapshot_info, tokens, 32);
OFFSET(kvsim_snapshot_info, dtype_code, 40);
OFFSET(kvsim_snapshot_info, dtype_bits, 41);
OFFSET(kvsim_snapshot_info, reserved, 42);
OFFSET(kvsim_snapshot_info, rope_applied, 44);
OFFSET(kvsim_snapshot_info, rope, 48);
OFFSET(kvsim_snapshot_info, model, 120);
OFFSET(kvsim_snapshot_info, file_bytes, 128);

SIZE(kvsim_snapshot_pages, 40);
OFFSET(kvsim_snapshot_pages, struct_size, 0);
OFFSET(kvsim_snapshot_pages, kind, 4);
OFFSET(kvsim_snapshot_pages, page_tokens, 8);
OFFSET(kvsim_snapshot_pages, layer, 12);
OFFSET(kvsim_snapshot_pages, layers, 16);
OFFSET(kvsim_snapshot_pages, layer_count, 24);
OFFSET(kvsim_snapshot_pages, first_sequence, 32);

SIZE(kvsim_dump, 152);
OFFSET(kvsim_dump, struct_size, 0);
OFFSET(kvsim_dump, layers, 4);
OFFSET(kvsim_dump, kv_heads, 8);
OFFSET(kvsim_dump, head_dim, 12);
OFFSET(kvsim_dump, page_tokens, 16);
OFFSET(kvsim_dump, dtype_code, 20);
OFFSET(kvsim_dump, dtype_bits, 21);
OFFSET(kvsim_dump, reserved, 22);
OFFSET(kvsim_dump, rope, 24);
OFFSET(kvsim_dump, model, 96);
OFFSET(kvsim_dump, sequences, 104);
OFFSET(kvsim_dump, lengths, 112);
OFFSET(kvsim_dump, tokens, 120);
OFFSET(kvsim_dump, prompts, 128);
OFFSET(kvsim_dump, read, 136);
OFFSET(kvsim_dump, read_user, 144);
