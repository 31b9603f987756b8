/* The fused way to compare: cosines, distances, thresholds, best matches, lists. */
#include "gather.cuh"
#include "tiles.cuh"

/* Facts of the rows and columns of a tile. */
struct tile_facts {
    kvsim__row_facts rows[BLOCK_ROWS], columns[COLUMNS];
    float2 hot[COLUMNS]; /* unit and norm; a unit that is no number: pairs need a second look */
};

/* Rows whose rounding is more than this are looked at one pair at a time. */
#define LITTLE_DOUBT 4e-6f

/* Unit and norm of a row for the first look; no number where that cannot do. */
static __device__ __forceinline__ float2 hot_facts(const kvsim__row_facts &facts) {
    const bool ordinary =
        facts.slot.class_id != UINT32_MAX && facts.inverse != 0.0f && facts.doubt <= LITTLE_DOUBT;
    return make_float2(ordinary ? facts.unit : __int_as_float(0x7fffffff), facts.norm);
}

/* Facts of row `row` of a panel; those of no page past its end. */
static __device__ __forceinline__ kvsim__row_facts facts_at(const kvsim__device_panel &panel, uint32_t row,
                                                            uint32_t end) {
    kvsim__row_facts facts;
    if (row < end) {
        facts = panel.facts[row];
    } else {
        facts.slot.class_id = UINT32_MAX;
    }
    return facts;
}

/* One warp fetches the facts of a tile while others multiply. */
static __device__ __forceinline__ void fetch_facts(const kvsim__device_compare &compare, uint32_t row, uint32_t column,
                                                   tile_facts *to) {
    const uint32_t lane = threadIdx.x % 32, end = min(compare.row_end, compare.rows.count);
    for (uint32_t i = lane; i < BLOCK_ROWS; i += 32) {
        to->rows[i] = facts_at(compare.rows, row + i, end);
    }
    for (uint32_t i = lane; i < COLUMNS; i += 32) {
        const kvsim__row_facts facts = facts_at(compare.columns, column + i, compare.columns.count);
        to->columns[i] = facts;
        to->hot[i] = hot_facts(facts);
    }
}

/* ---- the first look ---- */

/* Eight bins around some value, in eighths of a bin so that a value's place is its own shift. */
struct eighths {
    float offset;
    bin_bytes counts;
};

static __device__ __forceinline__ eighths eighths_around(float bin) {
    eighths made;
    made.counts.base = max((int)bin - 3, 0);
    made.counts.low = made.counts.high = 0;
    made.offset = 8388608.0f - 8.0f * (float)made.counts.base;
    return made;
}

/* Where a value of so many bins lies, in eighths from the first bin; more than 63 is outside. */
static __device__ __forceinline__ uint32_t eighths_at(const eighths &of, float value, float scale, float shift) {
    return __float_as_uint(__fmaf_rd(value, 8.0f * scale, of.offset + 8.0f * shift)) - 0x4b000000u;
}

/* One of the two rows of a thread. */
struct thread_row {
    float unit, norm, inverse, square, best;
    int best_at;      /* element */
    uint64_t marked; /* bits of the elements that need a second look */
};

static __device__ __forceinline__ thread_row open_row(const kvsim__row_facts &facts) {
    thread_row row;
    const float2 hot = hot_facts(facts);
    row.unit = hot.x;
    row.norm = hot.y;
    row.inverse = facts.inverse;
    row.square = hot.y * hot.y;
    row.best = -2.0f;
    row.best_at = -1;
    row.marked = 0;
    return row;
}

/* Keep the sums of a piece where a thread can find them by number. */
template <class SUM>
static __device__ __forceinline__ void keep_dots(const SUM (&piece)[PIECE], int p, float (&dots)[2][PIECES]) {
#pragma unroll
    for (int k = 0; k < PIECE; k++) {
        dots[row_of(k)][p * PIECE_COLUMNS + element_of(k)] = (float)piece[k];
    }
}

/*
 * First look: pairs far below every threshold and beyond every budget, all of which take part, are counted here, without
 * a branch. The others are marked. Compared with kvsim__decide there are no doubts to have: `attention` is the least
 * threshold less all bounds, `clear` at least 0.1, above which no distance is taken from differences.
 */
template <class SUM>
static __device__ __forceinline__ void look_once(walker *own, tally *block, const float2 *hot,
                                                 const SUM (&total)[SUMS], thread_row &first, thread_row &second,
                                                 float (&dots)[2][PIECES], float attention, float clear) {
    const int lane = (int)threadIdx.x % 32;
    const float bins = (float)KVSIM_HISTOGRAM_BINS;
    eighths cosines, distances, errors;
    {
        const float2 y = hot[column_of(0, lane)];
        const float cosine = (float)total[0] * first.unit * y.x;
        const float distance = sqrtf(fmaxf(first.square + y.y * y.y - 2.0f * first.norm * y.y * cosine, 0.0f));
        /* The bins of a whole warp are around those of one thread whose figures are numbers. */
        const uint32_t numbers = __ballot_sync(0xffffffffu, cosine == cosine);
        const int from = numbers != 0 ? __ffs((int)numbers) - 1 : 0;
        cosines = eighths_around(__shfl_sync(0xffffffffu, (0.5f * cosine + 0.5f) * bins, from));
        distances = eighths_around(__shfl_sync(0xffffffffu, 0.5f * distance * bins, from));
        errors = eighths_around(__shfl_sync(0xffffffffu, fminf(0.5f * distance * first.inverse, 1.0f) * bins, from));
    }
#pragma unroll 1
    for (int p = 0; p < PIECE_COUNT; p++) {
        SUM piece[PIECE];
        uint32_t marked[2] = {0, 0};
        take_piece(p, total, piece);
#pragma unroll
        for (int k = 0; k < PIECE; k++) {
            const float2 y = hot[column_of(p * PIECE_COLUMNS + element_of(k), lane)];
            thread_row &x = row_of(k) == 0 ? first : second;
            const float cosine = (float)piece[k] * (x.unit * y.x);
            const float square = fmaf(-2.0f * x.norm * y.y, cosine, fmaf(y.y, y.y, x.square));
            float distance;
            asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(distance) : "f"(square));
            const float error = distance * x.inverse;
            const uint32_t c = eighths_at(cosines, cosine, 0.5f * bins, 0.5f * bins);
            const uint32_t d = eighths_at(distances, distance, 0.5f * bins, 0.0f);
            const uint32_t f = eighths_at(errors, error, 0.5f * bins, 0.0f);
            /* Comparisons with what is no number are false. */
            const bool plain = cosine < attention && error > clear;
            const bool inside = max(max(c, d), f) < 64u;
            count_bin(cosines.counts, c & 0x38u, plain && inside);
            count_bin(distances.counts, d & 0x38u, plain && inside);
            count_bin(errors.counts, f & 0x38u, plain && inside);
            if (plain && !inside) {
                atomicAdd(&block->histograms[0][kvsim__bin_of(0.5f * cosine + 0.5f)], 1u);
                atomicAdd(&block->histograms[1][kvsim__bin_of(0.5f * distance)], 1u);
                atomicAdd(&block->histograms[2][kvsim__bin_of(0.5f * error)], 1u);
            }
            own->cosine_sum += plain ? cosine : 0.0f;
            own->distance_sum += plain ? distance : 0.0f;
            own->relative_sum += plain ? error : 0.0f;
            own->least = plain ? fminf(own->least, cosine) : own->least;
            const bool better = plain && cosine > x.best;
            x.best = better ? cosine : x.best;
            x.best_at = better ? p * PIECE_COLUMNS + element_of(k) : x.best_at;
            marked[row_of(k)] |= plain ? 0u : 1u << element_of(k);
        }
        if ((marked[0] | marked[1]) != 0) {
            keep_dots(piece, p, dots);
            first.marked |= (uint64_t)marked[0] << (p * PIECE_COLUMNS);
            second.marked |= (uint64_t)marked[1] << (p * PIECE_COLUMNS);
        }
    }
    flush_bins(cosines.counts, block->histograms[0]);
    flush_bins(distances.counts, block->histograms[1]);
    flush_bins(errors.counts, block->histograms[2]);
    own->most = fmaxf(first.best, second.best);
    own->pairs = 2 * PIECES - (uint32_t)(__popcll(first.marked) + __popcll(second.marked));
}

/* All elements of a row are marked. */
#define ALL_PIECES (((uint64_t)1 << PIECES) - 1)

/* Offer the best pair of a row's first look to the slot's. */
static __device__ __forceinline__ void put_best(const kvsim__device_compare &compare, walker *own,
                                                const thread_row &row, uint32_t in_panel, uint32_t column) {
    const uint32_t earlier = compare.columns.first + column + (uint32_t)column_of(row.best_at, (int)threadIdx.x % 32);
    row_begin(own);
    own->row_best = row.best_at < 0 ? 0 : kvsim__best_key(row.best, earlier);
    row_end(&compare, own, compare.rows.first + in_panel, 4);
}

/* Counters of a block, and the compare itself where a function that is not inlined can read it fast. */
struct pair_counters {
    tally block;
    kvsim__device_compare job;
};

/*
 * Second look: the marked pairs of a thread's two rows, one after the other. Not inlined, so that what it needs takes no
 * registers from the products.
 */
static __device__ __noinline__ void look_twice(const kvsim__device_compare *compare, tally *block,
                                               const tile_facts *facts, const float (*dots)[PIECES],
                                               uint64_t first_marked, uint64_t second_marked, uint32_t row,
                                               uint32_t column) {
    const int lane = (int)threadIdx.x % 32;
    walker own;
    walker_begin(&own);
#pragma unroll 1
    for (uint32_t r = 0; r < 2; r++) {
        const uint32_t later = compare->rows.first + row + r * 8;
        const kvsim__row_facts x = facts->rows[row % BLOCK_ROWS + r * 8];
        uint64_t marked = x.slot.class_id == UINT32_MAX ? 0 : r == 0 ? first_marked : second_marked;
        row_begin(&own);
#pragma unroll 1
        while (marked != 0) {
            const int e = __ffsll((long long)marked) - 1;
            const int j = column_of(e, lane);
            marked &= marked - 1;
            take_pair(compare, &own, block, &x, &facts->columns[j], later,
                      compare->columns.first + column + (uint32_t)j, dots[r][e]);
        }
        __syncwarp();
        row_end(compare, &own, later, 4);
    }
    walker_end(&own, block);
}

/*
 * Take the pairs of a tile. `row` is the first row of the thread; the second is eight further.
 * `plain`: nothing is asked for that a first look cannot give, and every earlier page comes before every later one.
 */
template <class SUM>
static __device__ __forceinline__ void take_tile(const kvsim__device_compare &compare, pair_counters *counters,
                                                 const tile_facts *facts, const SUM (&total)[SUMS], uint32_t row,
                                                 uint32_t column, bool plain, float attention, float clear) {
    const uint32_t in_block = row % BLOCK_ROWS;
    tally *block = &counters->block;
    uint64_t marked[2] = {ALL_PIECES, ALL_PIECES};
    float dots[2][PIECES];
    if (plain) {
        walker own;
        walker_begin(&own);
        thread_row first = open_row(facts->rows[in_block]), second = open_row(facts->rows[in_block + 8]);
        look_once(&own, block, facts->hot, total, first, second, dots, attention, clear);
        marked[0] = first.marked;
        marked[1] = second.marked;
        put_best(compare, &own, first, row, column);
        put_best(compare, &own, second, row + 8, column);
        walker_end(&own, block);
    } else {
#pragma unroll 1
        for (int p = 0; p < PIECE_COUNT; p++) {
            SUM piece[PIECE];
            take_piece(p, total, piece);
            keep_dots(piece, p, dots);
        }
    }
    if (__any_sync(0xffffffffu, (marked[0] | marked[1]) != 0)) {
        look_twice(&counters->job, block, facts, dots, marked[0], marked[1], row, column);
    }
}

/* What the first look may decide, of all tiles of a compare. */
struct look_limits {
    float attention, clear;
    bool plain;
};

static __device__ __forceinline__ look_limits find_look_limits(const kvsim__device_compare &compare) {
    const kvsim__pair_rules *rules = &compare.host_rules;
    look_limits limits;
    limits.plain = rules->filter == 0 && rules->bounds == 0 && compare.sequence_pairs == NULL &&
                   compare.relation_bits == NULL && (compare.flags & KVSIM__COMPARE_GATHER) != 0;
    limits.attention = 2.0f;
    if (rules->threshold_count > 0) {
        limits.attention = rules->thresholds[0] - rules->bound - 2.0f * LITTLE_DOUBT - 1e-6f;
    }
    if ((compare.flags & KVSIM__COMPARE_TOP) != 0) {
        limits.attention = fminf(limits.attention, compare.top_cutoff);
    }
    limits.clear = fmaxf(fmaxf(rules->clear_limit, rules->near_limit), 0.1f);
    return limits;
}

/* What is done with tiles of products of packed elements. */
template <int OPERAND> struct pair_work {
    enum { operand = OPERAND };
    typedef kvsim__device_compare job;
    typedef tile_facts facts;
    typedef pair_counters counters;
    typedef look_limits limits;
    static __device__ __forceinline__ void begin(pair_counters *counters, const job &compare) {
        tally_begin(&counters->block, (int)threadIdx.x, THREADS);
        for (uint32_t i = threadIdx.x; i < sizeof(job) / sizeof(uint32_t); i += THREADS) {
            ((uint32_t *)&counters->job)[i] = ((const uint32_t *)&compare)[i];
        }
    }
    static __device__ __forceinline__ limits find_limits(const job &compare) {
        return find_look_limits(compare);
    }
    static __device__ __forceinline__ void fetch(const job &compare, uint32_t row, uint32_t column, facts *to) {
        fetch_facts(compare, row, column, to);
    }
    static __device__ __forceinline__ void take(const job &compare, const limits &limits, pair_counters *counters,
                                                const facts *facts, const typename kind_of<OPERAND>::sum (&total)[SUMS],
                                                uint32_t row, uint32_t in_block, uint32_t column) {
        const bool plain = limits.plain && compare.columns.first + column + COLUMNS <= compare.rows.first + row;
        take_tile(compare, counters, facts, total, row + in_block, column, plain, limits.attention, limits.clear);
    }
    static __device__ __forceinline__ void end(const pair_counters *counters, const job &compare) {
        if ((compare.flags & KVSIM__COMPARE_GATHER) != 0) {
            tally_end(&counters->block, compare.figures, (int)threadIdx.x, MULTIPLIERS);
        }
    }
};

int fused_available(kvsim__device *device) {
    return device->properties.major == 9 && device->properties.minor == 0 && device->encode != NULL;
}

int32_t fused_compare(kvsim__device *device, const kvsim__device_compare *compare) {
    fused_job job;
    const uint32_t triangle = compare->rows.first == compare->columns.first;
    const uint32_t end = compare->row_end < compare->rows.count ? compare->row_end : compare->rows.count;
    const uint32_t parts = compare->operand == KVSIM__OPERAND_SPLIT ? 2 : 1;
    job.steps = (uint32_t)(compare->rows.row_bytes / parts / STEP_BYTES);
    int32_t status = describe_rows(device, compare->rows.operand, compare->rows.row_bytes, compare->rows.capacity,
                                   BLOCK_ROWS, &job.rows);
    if (status == KVSIM_OK) {
        status = describe_rows(device, compare->columns.operand, compare->columns.row_bytes,
                               compare->columns.capacity, HALF_COLUMNS, &job.columns);
    }
    if (status == KVSIM_OK) {
        status = list_tiles(device, compare->row_begin, end, compare->columns.count, triangle, &job);
    }
    if (status != KVSIM_OK) {
        return status;
    }
    switch (compare->operand) {
    case KVSIM__OPERAND_BF16:
        return launch_tiles<pair_work<KVSIM__OPERAND_BF16>>(device, &job, compare);
    case KVSIM__OPERAND_F16:
        return launch_tiles<pair_work<KVSIM__OPERAND_F16>>(device, &job, compare);
    case KVSIM__OPERAND_E4M3:
        return launch_tiles<pair_work<KVSIM__OPERAND_E4M3>>(device, &job, compare);
    case KVSIM__OPERAND_E5M2:
        return launch_tiles<pair_work<KVSIM__OPERAND_E5M2>>(device, &job, compare);
    case KVSIM__OPERAND_I8:
        return launch_tiles<pair_work<KVSIM__OPERAND_I8>>(device, &job, compare);
    default:
        return launch_tiles<pair_work<KVSIM__OPERAND_SPLIT>>(device, &job, compare);
    }
}
