/* Steps the resource grid of src/marlet/envs/grid.py, with its default options, by random actions: a lean loop on one core.
 *
 *     gcc -O3 -march=native -o grid grid.c && ./grid ENVIRONMENTS SECONDS
 *
 * Each environment has episodes of its own. What a learner would be given is written down at every step: observations,
 * rewards and the end. The state is not copied out, for it lies there to be read. It prints one line of JSON.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SIZE = 5, CELLS = SIZE * SIZE, AGENTS = 2, STEPS = 25, BLOCK = 64 };

typedef struct {
    float values[CELLS];
    int row[AGENTS], col[AGENTS], time;
} Grid;

typedef struct {
    float obs[AGENTS][2], reward[AGENTS];
    int truncated;
} Step;

static uint64_t bits = 88172645463325252ull;

static inline uint64_t draw(void) { /* xorshift, Marsaglia 2003 */
    bits ^= bits << 13;
    bits ^= bits >> 7;
    bits ^= bits << 17;
    return bits;
}

static inline void look(const Grid *grid, Step *step) {
    for (int i = 0; i < AGENTS; i++) {
        step->obs[i][0] = grid->row[i] / (float)(SIZE - 1);
        step->obs[i][1] = grid->col[i] / (float)(SIZE - 1);
    }
}

static void reset(Grid *grid, Step *step) {
    for (int k = 0; k < CELLS; k++) grid->values[k] = (float)(((draw() >> 40) * 10) >> 24);
    for (int i = 0; i < AGENTS; i++) grid->row[i] = grid->col[i] = i * (SIZE - 1);
    grid->time = 0;
    look(grid, step);
}

static inline int within(int k) { return k < 0 ? 0 : k >= SIZE ? SIZE - 1 : k; }

static inline void advance(Grid *grid, Step *step) {
    uint64_t random = draw() >> 32;
    int cell[AGENTS];
    float found[AGENTS];
    for (int i = 0; i < AGENTS; i++, random >>= 2) {
        int action = random & 3; /* up, down, left, right */
        grid->row[i] = within(grid->row[i] + (action == 1) - (action == 0));
        grid->col[i] = within(grid->col[i] + (action == 3) - (action == 2));
        cell[i] = grid->row[i] * SIZE + grid->col[i];
        found[i] = grid->values[cell[i]];
    }
    float shared = cell[0] == cell[1] ? 0.5f : 1.0f;
    for (int i = 0; i < AGENTS; i++) step->reward[i] = found[i] * shared;
    for (int i = 0; i < AGENTS; i++) grid->values[cell[i]] = 0;
    step->truncated = ++grid->time >= STEPS;
    look(grid, step);
}

static double now(void) { /* of processor time: what other processes take is not counted */
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int count, char **arguments) {
    int envs = count > 1 ? atoi(arguments[1]) : 4096;
    double seconds = count > 2 ? atof(arguments[2]) : 1.0;
    Grid *grids = malloc(envs * sizeof *grids);
    Step *steps = malloc(envs * sizeof *steps);
    if (envs < 1 || !grids || !steps) {
        fprintf(stderr, "usage: grid ENVIRONMENTS SECONDS\n");
        return 2;
    }
    for (int e = 0; e < envs; e++) { /* episodes end one by one, as they do in the long run */
        reset(&grids[e], &steps[e]);
        grids[e].time = e % STEPS;
    }
    double earned = 0, episodes = 0, begun = now(), passed;
    long done = 0;
    do {
        for (int k = 0; k < BLOCK; k++) {
            for (int e = 0; e < envs; e++) {
                advance(&grids[e], &steps[e]);
                earned += steps[e].reward[0] + steps[e].reward[1];
                if (steps[e].truncated) {
                    episodes++;
                    reset(&grids[e], &steps[e]);
                }
            }
            __asm__ volatile("" : : "r"(steps) : "memory"); /* a learner could read them now: all must be written */
        }
        done += (long)BLOCK * envs;
        passed = now() - begun;
    } while (passed < seconds);
    printf("{\"steps_per_second\": %.0f, \"earned_per_episode\": %.4f}\n", done / passed, earned / (done / (double)STEPS));
    return episodes < 1;
}
