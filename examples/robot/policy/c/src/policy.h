/* Pendulum-v1 seed 0 taylor 0.95
 *
 * From an observation in the environment's units to an action in the environment's units. C99, no allocation, no state: calls
 * from several threads do not disturb each other, and each takes the same number of operations.
 *
 * 811 multiply-adds a call, 4523 bytes of constants, 560 bytes of buffers on the stack.
 *   layer 0: 3 -> 92, 253 of 276 weights; dense, 1472 bytes (as sparse rows: 1725)
 *   layer 1: 92 -> 48, 510 of 4416 weights; sparse rows, 2790 bytes (as dense: 17856)
 *   layer 2: 48 -> 1, 48 of 48 weights; sparse rows, 245 bytes (as dense: 196, plus an extra function)
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
