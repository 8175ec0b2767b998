// Behaviour of DSP48E2 (UG579) as far as boards/dsp48e2.py uses it: pre-adder A + D, 27 x 18
// multiplier, and P = (PCIN or 0) + (RND or 0) + product, with registers A2, D, B1, B2, AD, M, P.
// Everything else is refused when the design is elaborated. For tests and proofs only: a board's
// flow brings its own.
module DSP48E2 #(
    parameter AREG = 1, ACASCREG = 1, BREG = 1, BCASCREG = 1, CREG = 1, DREG = 1, ADREG = 1,
    parameter MREG = 1, PREG = 1, ALUMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1,
    parameter INMODEREG = 1, OPMODEREG = 1,
    parameter USE_MULT = "MULTIPLY", USE_SIMD = "ONE48", A_INPUT = "DIRECT", B_INPUT = "DIRECT",
    parameter AMULTSEL = "A", BMULTSEL = "B", PREADDINSEL = "A",
    parameter [47:0] RND = 48'h0
) (
    input CLK,
    input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D,
    input [29:0] ACIN, input [17:0] BCIN, input [47:0] PCIN,
    input CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input [2:0] CARRYINSEL, input [4:0] INMODE, input [8:0] OPMODE, input [3:0] ALUMODE,
    input CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP,
    input CEALUMODE, CECARRYIN, CECTRL, CEINMODE,
    input RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTALLCARRYIN, RSTALUMODE, RSTCTRL, RSTINMODE,
    output [47:0] P, output [47:0] PCOUT
);
  generate
    if (AREG != 1 || BREG != 2 || DREG != 1 || ADREG != 1 || MREG != 1 || PREG != 1
        || ALUMODEREG != 0 || CARRYINREG != 0 || CARRYINSELREG != 0 || INMODEREG != 0
        || OPMODEREG != 0 || AMULTSEL != "AD" || BMULTSEL != "B" || PREADDINSEL != "A"
        || A_INPUT != "DIRECT" || B_INPUT != "DIRECT" || USE_MULT != "MULTIPLY"
        || USE_SIMD != "ONE48")
      $error("DSP48E2: a parameter that this model does not know");
  endgenerate

  reg signed [26:0] a2, d, ad;
  reg signed [17:0] b1, b2;
  reg signed [44:0] m;
  reg [47:0] p;
  wire signed [44:0] product;

  // INMODE: [0] A1 instead of A2, [1] A is 0, [2] D is not 0, [3] D - A, [4] B1 instead of B2.
  wire [26:0] pre_a = INMODE[1] ? 27'd0 : a2;
  wire [26:0] pre_d = INMODE[2] ? d : 27'd0;
  // OPMODE: [1:0] X and [3:2] Y, together the product, [6:4] Z, [8:7] W.
  wire [47:0] xy = OPMODE[3:0] == 4'b0101 ? {{3{m[44]}}, m} : 48'd0;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : 48'd0;
  wire [47:0] w = OPMODE[8:7] == 2'b10 ? RND : 48'd0;

  // A proof may put another function of the operands here, which port C then describes.
  dsp48e2_multiplier multiplier (.a(ad), .b(b2), .c(C), .m(product));

  always @(posedge CLK) begin
    if (RSTA) a2 <= 0; else if (CEA2) a2 <= A[26:0];
    if (RSTD) d <= 0; else if (CED) d <= D;
    if (RSTD) ad <= 0; else if (CEAD) ad <= INMODE[3] ? pre_d - pre_a : pre_d + pre_a;
    if (RSTB) b1 <= 0; else if (CEB1) b1 <= B;
    if (RSTB) b2 <= 0; else if (CEB2) b2 <= b1;
    if (RSTM) m <= 0; else if (CEM) m <= product;
    if (RSTP) p <= 0; else if (CEP) p <= xy + z + w;
  end
  assign P = p;
  assign PCOUT = p;
endmodule

`ifndef MOEVIT_ABSTRACT_MULTIPLIER
module dsp48e2_multiplier (
    input signed [26:0] a, input signed [17:0] b, input [47:0] c, output signed [44:0] m
);
  assign m = a * b;
endmodule
`endif
