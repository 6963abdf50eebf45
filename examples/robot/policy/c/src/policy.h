/* Pendulum-v1 seed 0 taylor 0.95
 *
 * From an observation in the environment's units to an action in the environment's units. C99, no allocation, no state: calls
 * from several threads do not disturb each other, and each takes the same number of operations.
 *
 * 810 multiply-adds a call, 4483 bytes of constants, 552 bytes of buffers on the stack.
 *   layer 0: 3 -> 92, 258 of 276 weights; dense, 1472 bytes (as sparse rows: 1750)
 *   layer 1: 92 -> 46, 506 of 4232 weights; sparse rows, 2760 bytes (as dense: 17112)
 *   layer 2: 46 -> 1, 46 of 46 weights; sparse rows, 235 bytes (as dense: 188, but for a function of its own)
 *
 * Observations:
 *   observation[0]: cos(angle)
 *   observation[1]: sin(angle)
 *   observation[2]: angular velocity
 * Actions:
 *   action[0]: action 0, from -2 to 2
 */
#ifndef POLICY_H
#define POLICY_H

#define POLICY_OBSERVATIONS 3
#define POLICY_ACTIONS 1

#ifdef __cplusplus
extern "C" {
#endif

void policy_act(const float observation[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS]);

#ifdef __cplusplus
}
#endif

#endif
