"""The files around the C policy: a program that replays the rollout, CMake, make, and an Arduino library."""


def around(width: int, columns: int, discrete: bool, libm: bool, allowed: str) -> dict[str, str]:
    """Return the files that compile a policy and check it, by path.

    Args:
        width: the length of an observation.
        columns: the number of values per action in the rollout.
        discrete: whether actions are discrete.
        libm: whether it must be linked with -lm.
        allowed: how ROLLOUT_TOLERANCE is scaled: not at all ("one"), by the `rollout_units` of each action ("each"), or by
            max(|expected action|, 1) ("relative").
    """
    compare = f"""
        const int action = policy_act(rollout_observations + step * {width});
        differ += action != rollout_actions[step];"""
    if not discrete:
        most, scaled = ("ROLLOUT_TOLERANCE", "") if allowed == "one" else ("most", _SCALED[allowed])
        compare = f"""
        float action[POLICY_ACTIONS];
        int i;
        policy_act(rollout_observations + step * {width}, action);
        for (i = 0; i < {columns}; i++) {{
            const float d = action[i] - rollout_actions[step * {columns} + i];{scaled.format(columns=columns)}
            differ += !(d <= {most} && d >= -{most});
        }}"""
    loop = f"for (step = 0; step < ROLLOUT_STEPS; step++) {{{compare}\n    }}"
    return {
        "replay/main.c": _MAIN.format(loop=loop),
        "CMakeLists.txt": _CMAKE.format(libm="target_link_libraries(policy PUBLIC m)\n" if libm else ""),
        "Makefile": _MAKE.format(libm=" -lm" if libm else ""),
        "library.properties": _ARDUINO,
        "examples/replay/replay.ino": _SKETCH.format(loop=loop),
    }


_SCALED = {
    "each": """
            const float most = ROLLOUT_TOLERANCE * rollout_units[i];""",
    "relative": """
            const float expected = rollout_actions[step * {columns} + i];
            const float size = expected < 0.0f ? -expected : expected;
            const float most = size > 1.0f ? size * ROLLOUT_TOLERANCE : ROLLOUT_TOLERANCE;""",
}

_MAIN = """/* Replays the recorded rollout, and ends with status 0 if every action is the recorded one within the tolerance. */
#include <stdio.h>

#include "policy.h"
#include "rollout.h"

int main(void)
{{
    int step, differ = 0;
    {loop}
    printf("%d steps replayed, %d actions differ\\n", ROLLOUT_STEPS, differ);
    return differ != 0;
}}
"""

_CMAKE = """# cmake -B build && cmake --build build && ctest --test-dir build
cmake_minimum_required(VERSION 3.13)
project(policy C)
set(CMAKE_C_STANDARD 99)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
add_library(policy src/policy.c)
target_include_directories(policy PUBLIC src)
{libm}add_executable(replay replay/main.c)
target_link_libraries(replay policy)
enable_testing()
add_test(NAME replay COMMAND replay)
"""

_MAKE = """# make check
CFLAGS = -O3 -std=c99 -pedantic -Wall -Wextra

check: replay_rollout
	./replay_rollout

replay_rollout: replay/main.c src/policy.c src/policy.h src/rollout.h
	$(CC) $(CFLAGS) -Isrc replay/main.c src/policy.c -o $@{libm}

clean:
	rm -f replay_rollout

.PHONY: check clean
"""

_ARDUINO = """name=policy
version=1.0.0
author=lth
maintainer=lth
sentence=A trained policy.
paragraph=From an observation to an action, without allocation. For boards whose constants stay in flash, such as ARM and ESP32.
category=Device Control
url=https://github.com/lth-rl/lth
architectures=*
includes=policy.h
"""

_SKETCH = """// Replays the recorded rollout on the board, and says over serial how many actions differ and how long a call takes.
#include <policy.h>
#include <rollout.h>

void setup() {{
    Serial.begin(115200);
    while (!Serial) {{
    }}
    int step, differ = 0;
    const unsigned long started = micros();
    {loop}
    const unsigned long elapsed = micros() - started;
    Serial.print(ROLLOUT_STEPS);
    Serial.print(" steps replayed, actions that differ: ");
    Serial.print(differ);
    Serial.print(", microseconds a call: ");
    Serial.println(elapsed / (float)ROLLOUT_STEPS);
}}

void loop() {{
}}
"""
