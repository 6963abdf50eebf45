/* A control loop around the policy: read the sensors, call the policy, drive the motor, 20 times a second.
 *
 * Here the sensors and the motor are a simulated pendulum: that of Gymnasium's Pendulum-v1, started hanging down.
 */
#include <math.h>
#include <stdio.h>

#include "policy.h"

#define PI 3.14159265f

int main(void)
{
    float angle = PI, speed = 0.0f, total = 0.0f; /* angle 0 is upright */
    int step;
    for (step = 0; step < 200; step++) {
        const float observation[POLICY_OBSERVATIONS] = {cosf(angle), sinf(angle), speed};
        float torque[POLICY_ACTIONS];
        const float wrapped = angle - 2.0f * PI * floorf((angle + PI) / (2.0f * PI));
        policy_act(observation, torque);
        total -= wrapped * wrapped + 0.1f * speed * speed + 0.001f * torque[0] * torque[0];
        speed += (15.0f * sinf(angle) + 3.0f * torque[0]) * 0.05f;
        speed = speed > 8.0f ? 8.0f : (speed < -8.0f ? -8.0f : speed);
        angle += speed * 0.05f;
    }
    printf("return %.1f, final angle %.3f rad from upright\n", (double)total, (double)(angle - 2.0f * PI * floorf((angle + PI) / (2.0f * PI))));
    return 0;
}
