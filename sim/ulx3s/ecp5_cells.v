// Behaviour of ECP5 cells that Yosys knows as black boxes, as its technology maps use them (see Lattice FPGA-TN-02204, memory usage,
// and FPGA-TN-02205, sysDSP): block RAM without output registers, multipliers without registers.

// 1024 words of 18 bits, or twice as many of 9, and so on. 36 bits: port A writes, port B reads, DOA has the lower half.
module DP16KD(
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC";
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "AUTO";
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
    parameter INITIALISED = 1; // 0: zeros, without a loop that Verilator would unroll
// INITVALS

    reg [8:0] bytes [0:2047];
    reg [17:0] qa, qb;
    reg [35:0] wide;
    integer i, j;
    // Words of 18 bits stand every 20 bits of an INITVAL.
    reg [319:0] row;
    generate if (INITIALISED) initial begin
        for (i = 0; i < 64; i = i + 1) begin
            row = initial_row(i);
            for (j = 0; j < 16; j = j + 1) begin
                bytes[32 * i + 2 * j] = row[20 * j +: 9];
                bytes[32 * i + 2 * j + 1] = row[20 * j + 9 +: 9];
            end
        end
    end endgenerate
    initial begin
        qa = 0;
        qb = 0;
        wide = 0;
        if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB") begin
            $display("DP16KD: a mode that this model does not have");
            $finish;
        end
    end

    wire [17:0] da = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] db = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] aa = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] ab = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};

    function [17:0] narrow(input integer width, input [13:0] address, input [17:0] word);
        case (width)
            18: narrow = word;
            9: narrow = address[3] ? word[17:9] : word[8:0];
            4: narrow = (address[3] ? word[17:9] : word[8:0]) >> {address[2], 2'b0} & 18'hf;
            2: narrow = (address[3] ? word[17:9] : word[8:0]) >> {address[2:1], 1'b0} & 18'h3;
            default: narrow = (address[3] ? word[17:9] : word[8:0]) >> address[2:0] & 18'h1;
        endcase
    endfunction

    // A byte of nine bits after a write of `width` bits.
    function [8:0] written(input integer width, input [13:0] address, input [17:0] data, input [8:0] old);
        reg [8:0] mask;
        integer shift;
        begin
            case (width)
                4: begin mask = 9'hf; shift = {address[2], 2'b0}; end
                2: begin mask = 9'h3; shift = {address[2:1], 1'b0}; end
                1: begin mask = 9'h1; shift = address[2:0]; end
                default: begin mask = 9'h1ff; shift = 0; end
            endcase
            written = (old & ~(mask << shift)) | ((data[8:0] & mask) << shift);
        end
    endfunction

    always @(posedge CLKA) if (RESETMODE != "SYNC" && (RSTA || RSTB)) begin
        $display("DP16KD: an asynchronous reset, which this model does not have");
        $finish;
    end
    always @(posedge CLKA) begin
        if (CEA && !(CSA0 | CSA1 | CSA2)) begin
            if (WEA) begin
                case (DATA_WIDTH_A)
                    36: begin
                        if (aa[0]) bytes[{aa[13:5], 2'd0}] <= da[8:0];
                        if (aa[1]) bytes[{aa[13:5], 2'd1}] <= da[17:9];
                        if (aa[2]) bytes[{aa[13:5], 2'd2}] <= db[8:0];
                        if (aa[3]) bytes[{aa[13:5], 2'd3}] <= db[17:9];
                    end
                    18: begin
                        if (aa[0]) bytes[{aa[13:4], 1'b0}] <= da[8:0];
                        if (aa[1]) bytes[{aa[13:4], 1'b1}] <= da[17:9];
                    end
                    default: bytes[aa[13:3]] <= written(DATA_WIDTH_A, aa, da, bytes[aa[13:3]]);
                endcase
            end
            if (!WEA || WRITEMODE_A == "READBEFOREWRITE") qa <= narrow(DATA_WIDTH_A, aa, {bytes[{aa[13:4], 1'b1}], bytes[{aa[13:4], 1'b0}]});
            else if (WRITEMODE_A == "WRITETHROUGH") qa <= da;
        end
        if (RSTA) qa <= 0;
    end
    always @(posedge CLKB) begin
        if (CEB && !(CSB0 | CSB1 | CSB2)) begin
            if (WEB) begin
                case (DATA_WIDTH_B)
                    18: begin
                        if (ab[0]) bytes[{ab[13:4], 1'b0}] <= db[8:0];
                        if (ab[1]) bytes[{ab[13:4], 1'b1}] <= db[17:9];
                    end
                    default: bytes[ab[13:3]] <= written(DATA_WIDTH_B, ab, db, bytes[ab[13:3]]);
                endcase
            end
            if (!WEB || WRITEMODE_B == "READBEFOREWRITE") qb <= narrow(DATA_WIDTH_B, ab, {bytes[{ab[13:4], 1'b1}], bytes[{ab[13:4], 1'b0}]});
            else if (WRITEMODE_B == "WRITETHROUGH") qb <= db;
            wide <= {bytes[{ab[13:5], 2'd3}], bytes[{ab[13:5], 2'd2}], bytes[{ab[13:5], 2'd1}], bytes[{ab[13:5], 2'd0}]};
        end
        if (RSTB) begin
            qb <= 0;
            wide <= 0;
        end
    end
    wire [17:0] oa = DATA_WIDTH_B == 36 ? wide[17:0] : qa;
    wire [17:0] ob = DATA_WIDTH_B == 36 ? wide[35:18] : qb;
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = oa;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} = ob;
endmodule

module MULT18X18D(
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
    output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    wire signed [18:0] wide_a = {SIGNEDA & a[17], a}, wide_b = {SIGNEDB & b[17], b};
    wire signed [37:0] product = wide_a * wide_b;
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
            P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = product[35:0];
endmodule

// The clock as it comes in: its rate is not simulated. It is said to be steady after a few cycles only.
module EHXPLLL(
    input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG,
    output CLKOP, CLKOS, LOCK
);
    parameter FEEDBK_PATH = "CLKOP", CLKOP_ENABLE = "ENABLED", CLKOS_ENABLE = "ENABLED";
    parameter CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 1, CLKOP_CPHASE = 0, CLKOS_DIV = 1, CLKOS_CPHASE = 0;
    assign CLKOP = CLKI;
    assign CLKOS = CLKI;
    reg [3:0] count = 0;
    always @(posedge CLKI) if (!LOCK) count <= count + 1;
    assign LOCK = count == 15;
endmodule

// Pads of the top level before synthesis.
module IB(input I, output O);
    assign O = I;
endmodule

module OBZ(input I, T, output O);
    assign O = I;
endmodule
