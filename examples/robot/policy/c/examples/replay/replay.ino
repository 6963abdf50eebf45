// Replays the recorded rollout on the board, and says over serial how many actions differ and how long a call takes.
#include <policy.h>
#include <rollout.h>

void setup() {
    Serial.begin(115200);
    while (!Serial) {
    }
    int step, differ = 0;
    const unsigned long started = micros();
    for (step = 0; step < ROLLOUT_STEPS; step++) {
        float action[POLICY_ACTIONS];
        int i;
        policy_act(rollout_observations + step * 3, action);
        for (i = 0; i < 1; i++) {
            const float d = action[i] - rollout_actions[step * 1 + i];
            differ += !(d <= ROLLOUT_TOLERANCE && d >= -ROLLOUT_TOLERANCE);
        }
    }
    const unsigned long elapsed = micros() - started;
    Serial.print(ROLLOUT_STEPS);
    Serial.print(" steps replayed, actions that differ: ");
    Serial.print(differ);
    Serial.print(", microseconds a call: ");
    Serial.println(elapsed / (float)ROLLOUT_STEPS);
}

void loop() {
}
