// The dot products of hw/compute/dot.py for Verilator: their arithmetic is one C function (dot.h), and a
// memory that is written and read in a circle delays the sums. The ports are vectors of whole
// words, which Verilator copies fast: `o` has a lane of 32 bits for each sum.
module moevit_dot #(
    parameter TOKENS = 2,
    parameter INPUTS = 8,
    parameter OUTPUTS = 4,
    parameter LATENCY = 11  // cycles from operands to sums, at least 2
) (
    input clk,
    input [8 * TOKENS * INPUTS - 1:0] a,
    input [8 * OUTPUTS * INPUTS - 1:0] w,
    output reg [32 * TOKENS * OUTPUTS - 1:0] o
);
  import "DPI-C" function void moevit_dot_sums(
    input bit [8 * TOKENS * INPUTS - 1:0] operands,
    input bit [8 * OUTPUTS * INPUTS - 1:0] weights,
    output bit [32 * TOKENS * OUTPUTS - 1:0] sums
  );
  localparam PLACES = LATENCY - 1;
  localparam [31:0] LAST = PLACES - 1;
  reg [32 * TOKENS * OUTPUTS - 1:0] line[0:PLACES-1];
  bit [32 * TOKENS * OUTPUTS - 1:0] sums;
  reg [31:0] place = 0;
  always @(posedge clk) begin
    moevit_dot_sums(a, w, sums);
    o <= line[place[7:0]];
    line[place[7:0]] <= sums;
    place <= place == LAST ? 0 : place + 1;
  end
endmodule
