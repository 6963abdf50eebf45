"""The functions of the C program: one for each kind of layer, and helpers."""

from .c_tables import Layout

_SPARSE = """
/* y = bias + kernel x. Row i has counts[i] weights; each has the column of x that it multiplies. */
static void {name}(const float *x, float *y, int rows, const {count} *counts,
                   const {index} *columns, const {weight} *weights, {scales_parameter}const float *bias)
{{
    int i;
    for (i = 0; i < rows; i++) {{
        float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
        int n = counts[i];
        for (; n >= 4; n -= 4) {{
            s0 += {cast}weights[0] * x[columns[0]];
            s1 += {cast}weights[1] * x[columns[1]];
            s2 += {cast}weights[2] * x[columns[2]];
            s3 += {cast}weights[3] * x[columns[3]];
            weights += 4;
            columns += 4;
        }}
        for (; n > 0; n--) {{
            s0 += {cast}*weights++ * x[*columns++];
        }}
        y[i] = bias[i] + {scaled_sum};
    }}
}}
"""

_DOT = """
/* y = bias + kernel x, one output after the other. */
static void {name}(const float *x, float *y, int rows, int inputs, const {weight} *weights,
                   {scales_parameter}const float *bias)
{{
    int i, j;
    for (i = 0; i < rows; i++) {{
        float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
        for (j = 0; j + 4 <= inputs; j += 4) {{
            s0 += {cast}weights[0] * x[j];
            s1 += {cast}weights[1] * x[j + 1];
            s2 += {cast}weights[2] * x[j + 2];
            s3 += {cast}weights[3] * x[j + 3];
            weights += 4;
        }}
        for (; j < inputs; j++) {{
            s0 += {cast}*weights++ * x[j];
        }}
        y[i] = bias[i] + {scaled_sum};
    }}
}}
"""

_AXPY = """
/* y = bias + kernel x, one input after the other, which compilers vectorize. */
static void {name}(const float *restrict x, float *restrict y, int rows, int inputs, const {weight} *weights,
                   {scales_parameter}const float *bias)
{{
    int i, j;
    for (i = 0; i < rows; i++) {{
        y[i] = {start};
    }}
    for (j = 0; j < inputs; j++) {{
        const float xj = x[j];
        for (i = 0; i < rows; i++) {{
            y[i] += {cast}weights[i] * xj;
        }}
        weights += rows;
    }}{finish}
}}
"""

_AXPY_SCALED = """
    for (i = 0; i < rows; i++) {
        y[i] = bias[i] + scales[i] * y[i];
    }"""

RELU = """
static void relu(float *y, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        y[i] = y[i] > 0.0f ? y[i] : 0.0f;
    }
}
"""

TANH = """
/* Within 2e-7 of tanh: Lambert's continued fraction at x/4, then tanh(2t) = 2 tanh(t) / (1 + tanh(t)^2) twice. */
static float policy_tanh(float x)
{
    const float z = 0.25f * (x > 9.0f ? 9.0f : (x < -9.0f ? -9.0f : x));
    const float q = z * z;
    float t = z * (135135.0f + q * (17325.0f + q * (378.0f + q)))
              / (135135.0f + q * (62370.0f + q * (3150.0f + q * 28.0f)));
    t = 2.0f * t / (1.0f + t * t);
    return 2.0f * t / (1.0f + t * t);
}
"""

TANH_ALL = """
static void tanh_all(float *y, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        y[i] = policy_tanh(y[i]);
    }
}
"""

CLAMP = """
/* A NaN becomes `low`. */
static float clamp(float x, float low, float high)
{
    return x > low ? (x < high ? x : high) : low;
}
"""

NORM = """
static void layer_norm(float *y, int n, const float *scale, const float *shift)
{
    float mean = 0.0f, variance = 0.0f, factor;
    int i;
    for (i = 0; i < n; i++) {
        mean += y[i];
    }
    mean /= (float)n;
    for (i = 0; i < n; i++) {
        y[i] -= mean;
        variance += y[i] * y[i];
    }
    factor = 1.0f / sqrtf(variance / (float)n + 1e-6f);
    for (i = 0; i < n; i++) {
        y[i] = y[i] * factor * scale[i] + shift[i];
    }
}
"""


def layer_function(layout: Layout) -> str:
    """Return the C function for layers of this layout."""
    quantized = layout.weight == "int8_t"
    total = "((s0 + s1) + (s2 + s3))"
    return {"sparse": _SPARSE, "dot": _DOT, "axpy": _AXPY}[layout.kind].format(
        name=layout.function,
        weight=layout.weight,
        index=layout.column,
        count=layout.length,
        scales_parameter="const float *scales, " if quantized else "",
        cast="(float)" if quantized else "",
        scaled_sum=f"scales[i] * {total}" if quantized else total,
        start="0.0f" if quantized else "bias[i]",
        finish=_AXPY_SCALED if quantized else "",
    )
