/* Replays the recorded rollout, and ends with status 0 if every action is the recorded one within the tolerance. */
#include <stdio.h>

#include "policy.h"
#include "rollout.h"

int main(void)
{
    int step, differ = 0;
    for (step = 0; step < ROLLOUT_STEPS; step++) {
        float action[POLICY_ACTIONS];
        int i;
        policy_act(rollout_observations + step * 3, action);
        for (i = 0; i < 1; i++) {
            const float d = action[i] - rollout_actions[step * 1 + i];
            differ += !(d <= ROLLOUT_TOLERANCE && d >= -ROLLOUT_TOLERANCE);
        }
    }
    printf("%d steps replayed, %d actions differ\n", ROLLOUT_STEPS, differ);
    return differ != 0;
}
